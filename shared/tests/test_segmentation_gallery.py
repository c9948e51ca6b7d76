"""Loaders and pictures of segmentation runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from vireo.data import GeneratedSegmentation
from vireo.errors import InputError
from vireo.segmentation import build_loader, write_gallery

DATA = OmegaConf.create(
    {
        "crop": [32, 32],
        "short_side": 32,
        "long_side": 48,
        "ratio": [0.5, 2.0],
        "max_share": 1.0,
        "flip": 0.5,
        "distort": False,
        "normalize": "half",
        "batch_size": 2,
        "eval_batch_size": 3,
        "workers": 0,
        "on_error": "raise",
    }
)
HERE = {"device": torch.device("cpu"), "rank": 0, "world_size": 1, "seed": 0}


class Brightness(nn.Module):
    """Scores of two classes from an image; notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape[-2:]))
        return torch.stack([images.mean(1), -images.mean(1)], 1)


@pytest.fixture(scope="module")
def dataset() -> GeneratedSegmentation:
    return GeneratedSegmentation(5, (32, 48), 0, object_size=(10, 24))


def test_gallery(dataset: GeneratedSegmentation, tmp_path: Path) -> None:
    model = Brightness().train()
    write_gallery(model, dataset, DATA, 3, tmp_path, HERE["device"], (16, 16), (16, 16))
    pictures = sorted((tmp_path / "gallery").iterdir())
    assert [path.name for path in pictures] == [f"labels_{i:02d}.png" for i in range(3)]
    assert set(model.seen) == {(16, 16)}
    assert not model.training
    assert Image.open(pictures[0]).width > 3 * 48


def test_gallery_of_few_images(dataset: GeneratedSegmentation, tmp_path: Path) -> None:
    write_gallery(Brightness(), dataset.with_indices([4]), DATA, 3, tmp_path, HERE["device"])
    assert len(list((tmp_path / "gallery").iterdir())) == 1
    write_gallery(Brightness(), dataset, DATA, 0, tmp_path / "none", HERE["device"])
    assert not (tmp_path / "none").exists()


def test_normalisation(dataset: GeneratedSegmentation) -> None:
    images, _ = next(iter(build_loader(dataset, DATA, True, **HERE).batches(0)))
    assert images.min() >= -1
    assert images.max() <= 1
    with pytest.raises(InputError, match="unknown normalisation 'other'"):
        build_loader(dataset, OmegaConf.merge(DATA, {"normalize": "other"}), True, **HERE)
