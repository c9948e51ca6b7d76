"""Block-wise masks agree with the reference numbers: the exact stream, and the distribution of those of a batch."""

from __future__ import annotations

import random

import pytest
import torch
from itpn_golden import load
from torch import Tensor

from itpn.block_mask import block_mask, block_masks
from vireo.errors import InputError

GRID = (14, 14)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load("block_mask")


@pytest.mark.parametrize(
    ("name", "seed", "grid", "num_masked", "max_block"),
    [
        *((f"seed{seed}_14x14_75_min16", seed, GRID, 75, None) for seed in range(4)),
        ("seed0_16x16_98_min16", 0, (16, 16), 98, None),
        ("seed1_14x14_75_min16_max40", 1, GRID, 75, 40),
    ],
)
def test_the_published_stream(
    numbers: dict[str, Tensor], name: str, seed: int, grid: tuple[int, int], num_masked: int, max_block: int | None
) -> None:
    rng = random.Random(seed)
    for expected in numbers[name]:
        assert torch.equal(block_mask(grid, num_masked, 16, max_block, rng), expected.bool())


def test_the_published_distribution(numbers: dict[str, Tensor]) -> None:
    rng = random.Random(11)
    masks = torch.stack([block_mask(GRID, rng=rng) for _ in range(2000)])
    counts = masks.sum((1, 2)).bincount(minlength=80)
    assert torch.equal(counts, numbers["counts_hist"])
    torch.testing.assert_close(masks.float().mean(0), numbers["mean_map_2000"], atol=1e-6, rtol=0)


def test_masks_of_a_batch_are_distributed_alike(numbers: dict[str, Tensor]) -> None:
    count = 8000
    masks = block_masks(torch.arange(count) * 7919, GRID)
    assert masks.shape == (count, 196)
    shares, expected = (
        values / values.sum() for values in (masks.sum(1).bincount(minlength=80), numbers["counts_hist"])
    )
    # five standard deviations of a share that both sides estimate
    spread = (expected.clamp(min=1e-3) * (1 / 2000 + 1 / count)).sqrt()
    assert ((shares - expected).abs() < 5 * spread).all()
    assert ((masks.float().mean(0).view(GRID) - numbers["mean_map_2000"]).abs() < 5 * (0.25 / 2000) ** 0.5).all()


def test_a_mask_is_its_samples_own() -> None:
    keys = torch.tensor([5, 6, 7])
    masks = block_masks(keys, (6, 9), 20, 4)
    assert torch.equal(block_masks(keys[1:2], (6, 9), 20, 4), masks[1:2])
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("max_block", [None, 3])
def test_neither_generator_masks_more_than_asked(max_block: int | None) -> None:
    alone = torch.stack([block_mask((4, 6), 9, 2, max_block, random.Random(seed)).flatten() for seed in range(50)])
    for masks in (alone, block_masks(torch.arange(50), (4, 6), 9, 2, max_block)):
        counts = masks.sum(1)
        assert counts.max() == 9
        assert counts.min() > 0


def test_an_empty_mask() -> None:
    assert not block_mask(GRID, 0).any()
    assert not block_masks(torch.arange(3), GRID, 0).any()


@pytest.mark.parametrize(
    ("num_masked", "min_block", "max_block"), [(197, 16, None), (-1, 16, None), (75, 0, None), (75, 16, 0)]
)
def test_impossible_masks(num_masked: int, min_block: int, max_block: int | None) -> None:
    for make in (
        lambda: block_mask(GRID, num_masked, min_block, max_block),
        lambda: block_masks(torch.arange(2), GRID, num_masked, min_block, max_block),
    ):
        with pytest.raises(InputError, match="units"):
            make()
