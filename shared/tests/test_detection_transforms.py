"""Random windows of detection samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vireo.data import GeneratedShapes
from vireo.data.random import seeded
from vireo.detection import LargeScaleJitter, RandomWindow
from vireo.detection.transforms import crop
from vireo.errors import InputError


def sample() -> tuple[torch.Tensor, dict[str, Any]]:
    return GeneratedShapes(1, (80, 120), object_size=(20, 40), num_objects=(4, 4), masks=True)[0]


def test_boxes_and_masks_stay_on_their_pixels() -> None:
    image, target = sample()
    cut, window = crop(image, target, 20, 30, 40, 60)
    assert torch.equal(cut, image[:, 20:60, 30:90])
    kept = [i for i, label_id in enumerate(target["ids"]) if label_id in window["ids"]]
    assert torch.equal(window["masks"], target["masks"][kept, 20:60, 30:90])
    for i, box in zip(kept, window["boxes"]):
        x1, y1, x2, y2 = (target["boxes"][i] - torch.tensor([30, 20, 30, 20])).tolist()
        assert box.tolist() == [max(x1, 0), max(y1, 0), min(x2, 60), min(y2, 40)]
    outside = [i for i in range(len(target["ids"])) if i not in kept]
    inner = torch.tensor([30, 20, 90, 60])
    for x1, y1, x2, y2 in target["boxes"][outside].tolist():
        assert x2 <= inner[0] or y2 <= inner[1] or x1 >= inner[2] or y1 >= inner[3]
    assert {len(window[name]) for name in ("boxes", "labels", "ids", "iscrowd", "area", "masks")} == {len(kept)}


def test_sizes() -> None:
    image, target = sample()
    transform, sizes = RandomWindow(0.5, (60, 70), (32, 50)), []
    for key in range(60):
        with seeded(key):
            cut, window = transform(image, target)
        assert window["size"] == tuple(cut.shape[-2:])
        sizes.append(window["size"])
    whole = sum(size == (80, 120) for size in sizes)
    assert 15 < whole < 45
    windows = [size for size in sizes if size != (80, 120)]
    assert all(32 <= side <= 50 for size in windows for side in size)
    assert len(set(windows)) > 10


def test_images_smaller_than_a_window() -> None:
    image, target = sample()
    cut, _ = RandomWindow(1.0, (80,), (384, 600))(image, target)
    assert cut.shape == (3, 80, 120)


def test_a_window_without_objects() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    box = torch.tensor([[0.0, 0, 4, 4]])
    _, window = crop(image, {"boxes": box, "labels": torch.tensor([1])}, 10, 10, 10, 10)
    assert window["boxes"].shape == (0, 4)
    assert window["labels"].shape == (0,)


def test_no_probability() -> None:
    with pytest.raises(InputError, match="no probability"):
        RandomWindow(1.5)


def test_jitter_scales_the_long_side() -> None:
    image, target = sample()
    transform, sides = LargeScaleJitter(100, (0.1, 2.0)), []
    for key in range(60):
        with seeded(key):
            cut, moved = transform(image, target)
        assert moved["size"] == tuple(cut.shape[-2:])
        assert max(moved["size"]) <= 100
        sides.append(max(moved["size"]))
        counts = {len(moved[name]) for name in ("boxes", "labels", "ids", "iscrowd", "area", "masks")}
        assert len(counts) == 1
        for mask, (x1, y1, x2, y2) in zip(moved["masks"], moved["boxes"].long().tolist()):
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0  # drawn around what is seen
            assert mask[y1:y2, [x1, x2 - 1]].any(0).all()
            assert mask[[y1, y2 - 1], x1:x2].any(1).all()
    assert 20 < sum(side == 100 for side in sides) < 42  # about half are cut
    assert min(sides) < 25


def test_jitter_without_masks() -> None:
    image, target = sample()
    del target["masks"]
    _, moved = LargeScaleJitter(60, (0.5, 0.5))(image, target)
    assert moved["size"] == (20, 30)
    assert torch.allclose(moved["boxes"], target["boxes"] / 4)


def test_jitter_by_what_is_no_factor() -> None:
    for scales in ((0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(InputError, match="no two rising factors"):
            LargeScaleJitter(100, scales)
