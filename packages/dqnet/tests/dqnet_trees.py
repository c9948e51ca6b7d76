"""Small folders of images and masks, in the layouts of the published sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from omegaconf import DictConfig, OmegaConf

import dqnet

SIDES = (12, 16)  # height and width of a written image
HERE: dict[str, Any] = {"device": "cpu", "rank": 0, "world_size": 1, "seed": 3}


def data_config(name: str, **changes: Any) -> DictConfig:
    """The packaged ``data`` configuration of a name, without workers."""
    config = OmegaConf.load(Path(dqnet.__file__).parent / "conf" / "data" / f"{name}.yaml")
    merged = OmegaConf.merge(config, OmegaConf.create({"workers": 0, **changes}))
    assert isinstance(merged, DictConfig)
    return merged


def write_image(path: Path, pixels: np.ndarray | None = None, seed: int = 0) -> Path:
    """Write ``uint8 (H, W)`` or ``(H, W, 3)`` RGB, or random colours."""
    if pixels is None:
        pixels = np.random.default_rng(seed).integers(0, 256, (*SIDES, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    assert cv2.imwrite(str(path.with_suffix(path.suffix.lower())), stored)
    path.with_suffix(path.suffix.lower()).rename(path)
    return path


def square_mask(seed: int = 0, size: tuple[int, int] = SIDES) -> np.ndarray:
    """A square of 255, somewhere."""
    mask = np.zeros(size, np.uint8)
    top = seed % 5
    mask[top : top + 6, 2:9] = 255
    return mask


def write_pairs(images: Path, masks: Path, stems: Sequence[str], spare: Sequence[str] = ()) -> None:
    """An image and a mask of every stem, and masks of ``spare`` that have no image."""
    for seed, stem in enumerate([*stems, *spare], start=sum(map(ord, str(images)))):
        write_image(masks / f"{stem}.png", square_mask(seed))
        if stem not in spare:
            write_image(images / f"{stem}.jpg", seed=seed)


CAMO = ("camourflage_00001", "camourflage_00002")
CAMO_TEST = ("camourflage_00003",)
COD10K = ("COD10K-CAM-1-Aquatic-1", "COD10K-CAM-2-Terrestrial-2", "COD10K-CAM-3-Flying-3")
COD10K_TEST = ("COD10K-CAM-1-Aquatic-9", "COD10K-CAM-1-Aquatic-8")
NON_CAMOUFLAGED = ("COD10K-NonCAM-1-Aquatic-5",)
TRAIN_COUNTS = {"CAMO": 2, "COD10K": 3}
TEST_COUNTS = {"CAMO": 1, "CHAMELEON": 2, "COD10K": 2, "NC4K": 1}


def write_authors_archives(root: Path) -> None:
    """CAMO and COD10K as their authors pack them: CAMO's masks in one folder, COD10K with what hides nothing."""
    camo, cod10k = root / "CAMO-V.1.0-CVIU2019", root / "COD10K-v3"
    write_pairs(camo / "Images" / "Train", camo / "GT", CAMO)
    write_pairs(camo / "Images" / "Test", camo / "GT", CAMO_TEST)
    for split, stems in (("Train", COD10K), ("Test", COD10K_TEST)):
        write_pairs(cod10k / split / "Image", cod10k / split / "GT_Object", [*stems, *NON_CAMOUFLAGED])


def write_packaged_archives(root: Path) -> None:
    """The packaged training set and the four test sets, with both names of a folder of images."""
    write_pairs(root / "TrainDataset" / "Imgs", root / "TrainDataset" / "GT", [*CAMO, *COD10K])
    for name, folder, stems in (
        ("CAMO", "Image", CAMO_TEST),
        ("CHAMELEON", "Imgs", ("animal-1", "animal-2")),
        ("COD10K", "Image", COD10K_TEST),
        ("NC4K", "Imgs", ("10",)),
    ):
        write_pairs(root / "TestDataset" / name / folder, root / "TestDataset" / name / "GT", stems)
