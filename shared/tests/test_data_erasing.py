"""Random erasing: timm's distribution, drawn by key."""

import random
from typing import Any

import pytest
import torch
from timm.data.random_erasing import RandomErasing as TimmErasing
from torch import Tensor

from vireo.data import RandomErasing
from vireo.errors import InputError


def keys(count: int, seed: int = 0) -> Tensor:
    return torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed))


def batch(count: int = 64, size: tuple[int, int] = (24, 20)) -> tuple[Tensor, dict[str, Tensor]]:
    """Images of one value that noise never takes."""
    return torch.full((count, 3, *size), 9.0), {"key": keys(count)}


def test_noise_in_one_rectangle_and_nothing_else() -> None:
    images, targets = batch()
    before = images.clone()
    erasing = RandomErasing(0.5)
    erased, same = erasing(images, targets)
    assert same is targets
    assert torch.equal(images, before)
    for changed, (top, left, height, width) in zip((erased != 9).all(1), erasing.rectangles(targets["key"], 24, 20)):
        expected = torch.zeros(24, 20, dtype=torch.bool)
        expected[top : top + height, left : left + width] = True
        assert torch.equal(changed, expected)
    share = (erased != 9).flatten(1).any(1).double().mean()
    assert 0.3 < share < 0.7


def test_noise_is_standard_normal() -> None:
    images, targets = batch(400)
    noise = RandomErasing(1.0)(images, targets)[0]
    drawn = noise[noise != 9].double()
    assert len(drawn) > 50_000
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert abs((drawn.abs() < 1).double().mean() - 0.6827) < 0.01
    assert len(drawn.unique()) > 0.99 * len(drawn)  # no pixel, channel or sample repeats another


@pytest.mark.parametrize(("area", "ratio"), [((0.02, 1 / 3), 0.3), ((0.5, 1.0), 0.1)])
def test_same_distribution_as_timm(area: tuple[float, float], ratio: float) -> None:
    """Shares of the image, heights, positions and how often nothing is erased; the second settings often do not fit."""
    count, height, width = 4000, 24, 20
    random.seed(0)
    theirs = TimmErasing(0.5, *area, min_aspect=ratio, mode="pixel", device="cpu")
    mask = theirs(torch.full((count, 1, height, width), 9.0))[:, 0] != 9
    rectangles = RandomErasing(0.5, area, ratio).rectangles(keys(count), height, width)
    top, left, h, w = rectangles.double().unbind(1)
    erased, expected = h > 0, mask.flatten(1).any(1)
    assert abs(erased.double().mean() - expected.double().mean()) < 0.04
    mask = mask[expected]
    their_h, their_w = mask.any(2).sum(1).double(), mask.any(1).sum(1).double()
    their_top, their_left = mask.any(2).int().argmax(1).double(), mask.any(1).int().argmax(1).double()
    for ours, other in ((h * w, their_h * their_w), (h, their_h), (w, their_w), (top, their_top), (left, their_left)):
        quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
        off = (ours[erased].quantile(quantiles) - other.quantile(quantiles)).abs()
        assert (off <= 0.08 * other.max() + 1).all()
        assert abs(ours[erased].mean() - other.mean()) < 0.12 * other.std()


def test_a_sample_depends_on_its_key_alone() -> None:
    images = torch.randn(64, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    targets = {"key": keys(64)}
    erasing = RandomErasing(0.5)
    whole, _ = erasing(images, targets)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))[:7]
    part, _ = erasing(images[order], {"key": targets["key"][order]})
    assert torch.equal(part, whole[order])
    assert torch.equal(erasing(images, targets)[0], whole)
    assert not torch.equal(erasing(images, {"key": keys(64, seed=1)})[0], whole)
    rectangles = erasing.rectangles(targets["key"], 24, 20)
    assert torch.equal(erasing._erase(images, targets["key"], rectangles), whole)  # as on CUDA: all samples at once


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_float(dtype: torch.dtype) -> None:
    images, targets = batch()
    erased, _ = RandomErasing(1.0)(images.to(dtype), targets)
    assert erased.dtype == dtype
    torch.testing.assert_close(erased, RandomErasing(1.0)(images, targets)[0].to(dtype))


def test_nobody_is_erased() -> None:
    images, targets = batch()
    assert torch.equal(RandomErasing(0.0)(images, targets)[0], images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.5}, "p 1.5 is no probability"),
        ({"area": (0.3, 0.2)}, r"area 0.3 to 0.2 is no range of shares"),
        ({"area": (0.3, 1.2)}, r"area 0.3 to 1.2 is no range of shares"),
        ({"ratio": 3.0}, r"ratio 3.0 is not in \(0, 1\]"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"RandomErasing: {message}"):
        RandomErasing(**arguments)


def test_images_before_normalisation() -> None:
    images, targets = batch()
    with pytest.raises(InputError, match=r"images of torch.uint8.*Normalize"):
        RandomErasing()(images.to(torch.uint8), targets)
