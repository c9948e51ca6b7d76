"""Masks of every kind as files: read as the field's tools read them, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import dqnet_trees as trees
import numpy as np
import pytest
import torch
from PIL import Image

from dqnet.data import build_dataset, build_loader
from dqnet.mask_files import MaskFolders, read_mask
from vireo.errors import InputError

GREY = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
KINDS = {
    "binary": trees.square_mask(),
    "soft": GREY,
    "dark": GREY // 3,  # never above 128: the convention takes it for empty
    "empty": np.zeros((12, 16), np.uint8),
    "all foreground": np.full((12, 16), 255, np.uint8),
    "equal channels": np.repeat(GREY[..., None], 3, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_read_as_the_metrics_expect_them(kind: str, tmp_path: Path) -> None:
    path = trees.write_image(tmp_path / "mask.png", KINDS[kind])
    mask = read_mask(path)
    assert mask.dtype == torch.uint8
    assert mask.shape == (12, 16)
    # what users of pysodmetrics hand to it
    assert (mask.numpy() == cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).all()


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16"])
def test_other_modes_of_png(mode: str, tmp_path: Path) -> None:
    values, path = trees.square_mask(), tmp_path / "mask.png"
    if mode == "I;16":
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)
    assert np.array_equal(read_mask(path).numpy(), values)


def test_masks_in_other_files(tmp_path: Path) -> None:
    for suffix in (".bmp", ".PNG", ".webp", ".jpg"):
        path = trees.write_image(tmp_path / f"mask{suffix}", trees.square_mask())
        expected = torch.from_numpy(trees.square_mask()) > 128
        assert torch.equal(read_mask(path) > 128, expected), suffix


def test_colours_are_refused(tmp_path: Path) -> None:
    coloured = np.repeat(trees.square_mask()[..., None], 3, 2)
    coloured[3, 3, 1] = 7
    with pytest.raises(InputError, match=r"mask\.png: mask has colours.*255 in the object"):
        read_mask(trees.write_image(tmp_path / "mask.png", coloured))


def test_class_indices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mask\.png: mask holds 0 and 1.*save 0 and 255"):
        read_mask(trees.write_image(tmp_path / "mask.png", trees.square_mask() // 255))


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    path = trees.write_image(tmp_path / "mask.png", GREY)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"mask\.png"):
        read_mask(path)
    with pytest.raises(InputError, match=r"none\.png"):
        read_mask(tmp_path / "none.png")


def test_an_upright_camera_image_fits_its_mask(tmp_path: Path) -> None:
    """The image is stored on its side, with a mark in its header; masks are drawn on what a viewer shows."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.jpg", exif=exif)
    trees.write_image(tmp_path / "masks" / "a.png", trees.square_mask(size=(20, 10)))
    dataset = MaskFolders.of(tmp_path / "images", tmp_path / "masks")
    dataset.check_images()
    image, target = dataset[0]
    assert image.shape == (3, 20, 10)
    assert target["mask"].shape == (20, 10)


def test_every_kind_goes_through_training_and_evaluation(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for number, (kind, pixels) in enumerate(KINDS.items()):
            del kind
            trees.write_image(tmp_path / part / "images" / f"{number}.jpg", seed=number)
            trees.write_image(tmp_path / part / "masks" / f"{number}.png", pixels)
    data = trees.data_config("folders", root=str(tmp_path), batch_size=6, eval_batch_size=6, check_images="full")
    train, val = (build_dataset(data, train=part) for part in (True, False))
    batch: Any = next(iter(build_loader(train, data, 24, train=True, **trees.HERE)))
    images, targets = batch
    assert images.shape == (6, 3, 24, 24)
    assert bool(images.isfinite().all())
    masks = targets["mask"][targets["index"].argsort()]
    assert masks.shape == (6, 1, 24, 24)
    assert float(masks.min()) == 0
    assert float(masks.max()) == 1
    shares = dict(zip(KINDS, masks.mean((1, 2, 3)).tolist()))
    assert shares["empty"] == 0
    assert shares["all foreground"] == 1
    assert 0.4 < shares["dark"] < 0.6  # training stretches it
    ((_, stored),) = build_loader(val, data, 24, train=False, **trees.HERE)
    for target, pixels in zip(stored, KINDS.values()):
        assert np.array_equal(target["mask"].numpy(), pixels if pixels.ndim == 2 else pixels[..., 0])
