"""Batched resized crops against torchvision's filter, and their independence of the batch."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from vireo.data import BatchResizedCrop, counter_uniform
from vireo.data.resized_crops import resampling_weights
from vireo.errors import InputError

KEYS = torch.arange(6) * 7919 + 3


@pytest.mark.parametrize(("height", "width", "size"), [(40, 40, 28), (40, 30, 20), (17, 23, 36)])
def test_whole_images_are_resized_as_by_torchvision(height: int, width: int, size: int) -> None:
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = BatchResizedCrop(size, scale=(1, 1), flip=0)
    resized, _ = whole(images, {"key": KEYS[:3]})
    torch.testing.assert_close(resized, F.resize(images.float(), [size, size], antialias=True), atol=1e-3, rtol=0)


def test_a_part_is_resized_as_by_torchvision() -> None:
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows, columns = (
        resampling_weights(torch.tensor([float(start)]), torch.tensor([float(length)]), 32, 12)
        for start, length in ((4, 24), (0, 20))
    )
    resized = rows[:, None] @ images @ columns[:, None].mT
    expected = F.resize(images[:, :, 4:28, :20], [12, 12], antialias=True)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the border the part's surroundings count here
    torch.testing.assert_close(resized[inner], expected[inner], atol=1e-5, rtol=0)


def test_parts_have_the_shares_and_shapes_asked_for() -> None:
    crop = BatchResizedCrop(8, scale=(0.2, 0.6), ratio=(0.8, 1.25))
    top, left, tall, wide = crop.boxes(torch.arange(4000), 50, 50).unbind(1)
    share, aspect = tall * wide / 2500, wide / tall
    assert 0.2 - 1e-4 <= float(share.min()) < 0.21
    assert 0.59 < float(share.max()) <= 0.6 + 1e-4
    assert 0.8 - 1e-4 <= float(aspect.min()) < 0.81
    assert 1.24 < float(aspect.max()) <= 1.25 + 1e-4
    assert float(torch.minimum(top, left).min()) >= 0
    assert float(torch.maximum(top + tall, left + wide).max()) <= 50 + 1e-4


def test_a_sample_does_not_depend_on_its_batch_and_flips_are_mirror_images() -> None:
    images = torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    crop, straight = BatchResizedCrop(16), BatchResizedCrop(16, flip=0)
    together, _ = crop(images, {"key": KEYS})
    alone = torch.cat([crop(images[i : i + 1], {"key": KEYS[i : i + 1]})[0] for i in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    mirrored = (counter_uniform(KEYS, "flip", 1) < 0.5)[:, :, None, None]
    assert mirrored.any()
    assert not mirrored.all()
    unflipped, _ = straight(images, {"key": KEYS})
    torch.testing.assert_close(together, torch.where(mirrored, unflipped.flip(3), unflipped), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"scale": (0.5, 0.2)}, {"scale": (0, 1)}, {"ratio": (0, 1)}, {"flip": 2}]
)
def test_impossible_ranges_are_named(options: dict) -> None:
    with pytest.raises(InputError, match="BatchResizedCrop"):
        BatchResizedCrop(**{"size": 8, **options})
