"""Block-wise masks of BEiT (Bao et al., 2022): rectangles are masked until a number of units is reached.

:func:`block_mask` is the published generator, one mask at a time from a Python generator. :func:`block_masks` makes the
masks of a batch at once from the keys of its samples: other masks, of the same distribution.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from vireo.data.random import counter_uniform
from vireo.errors import InputError

ATTEMPTS = 10  # in a row that may fail before a mask is left as it is
MIN_ASPECT = 0.3  # height divided by width of a rectangle is between this and its inverse
_ROUND = 16  # attempts of a batch between two looks at whether it is done


def block_mask(
    grid: tuple[int, int],
    num_masked: int = 75,
    min_block: int = 16,
    max_block: int | None = None,
    rng: random.Random | None = None,
) -> Tensor:
    """One mask. Rectangles must be smaller than the grid and may overlap; the last ones are small, or do not fit.

    Args:
        grid: rows and columns of units.
        num_masked: units to mask. At most so many are, mostly all of them.
        min_block: least area of a rectangle, in units, while so many are left to mask.
        max_block: greatest number of units that a rectangle may add; None for ``num_masked``.
        rng: source of randomness; None for a fresh one seeded by the system.

    Returns:
        bool ``(rows, columns)``, true where a unit is masked.

    Raises:
        InputError: more units than the grid has, or a block of no unit.
    """
    _check(grid, num_masked, min_block, max_block)
    rng = rng or random.Random()
    mask = torch.zeros(grid, dtype=torch.bool)
    count = failed = 0
    while count < num_masked and failed < ATTEMPTS:
        allowed = min(num_masked - count, num_masked if max_block is None else max_block)
        area = rng.uniform(min_block, allowed)
        aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failed += 1
        if height < grid[0] and width < grid[1]:
            top, left = rng.randint(0, grid[0] - height), rng.randint(0, grid[1] - width)
            block = mask[top : top + height, left : left + width]
            added = block.numel() - int(block.sum())
            if 0 < added <= allowed:
                block.fill_(True)
                count, failed = count + added, 0
    return mask


def block_masks(
    keys: Tensor,
    grid: tuple[int, int],
    num_masked: int = 75,
    min_block: int = 16,
    max_block: int | None = None,
) -> Tensor:
    """A mask for each sample of a batch, on the device of ``keys``, distributed as those of :func:`block_mask`.

    All samples try a rectangle at once, each until its own mask is done, so a mask depends on its key only.

    Args:
        keys: int64 ``(B,)``, one per sample of an epoch (:func:`vireo.data.counter_key`).
        grid, num_masked, min_block, max_block: see :func:`block_mask`.

    Returns:
        bool ``(B, rows * columns)``, true where a unit is masked.

    Raises:
        InputError: as :func:`block_mask`.
    """
    _check(grid, num_masked, min_block, max_block)
    rows, columns = (torch.arange(side, device=keys.device) for side in grid)
    mask = torch.zeros(len(keys), *grid, dtype=torch.bool, device=keys.device)
    count, failed = (torch.zeros_like(keys) for _ in range(2))
    turn = 0
    while True:
        draws = counter_uniform(keys, f"block_mask.{turn}", 4 * _ROUND).unflatten(1, (_ROUND, 4))
        for share, shape, y, x in (attempt.unbind(1) for attempt in draws.unbind(1)):
            allowed = (num_masked - count).clamp(max=num_masked if max_block is None else max_block)
            area = min_block + (allowed - min_block) * share
            aspect = ((1 - 2 * shape) * math.log(MIN_ASPECT)).exp()
            height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
            top, left = (y * (grid[0] - height + 1)).floor(), (x * (grid[1] - width + 1)).floor()
            inside_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])
            inside_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])
            block = inside_rows[:, :, None] & inside_columns[:, None, :] & ~mask
            added = block.sum((1, 2))
            fits = (height < grid[0]) & (width < grid[1]) & (added > 0) & (added <= allowed)
            fits &= failed < ATTEMPTS  # allowed is 0 once a mask is complete
            mask |= block & fits[:, None, None]
            count += added * fits
            failed = torch.where(fits, 0, failed + 1)
        turn += 1
        if not bool(((count < num_masked) & (failed < ATTEMPTS)).any()):
            return mask.flatten(1)


def _check(grid: tuple[int, int], num_masked: int, min_block: int, max_block: int | None) -> None:
    if not 0 <= num_masked <= grid[0] * grid[1]:
        what = f"{num_masked} of {grid[0]}x{grid[1]} units cannot be masked"
        raise InputError(what, "num_masked", f"use 0 to {grid[0] * grid[1]}; published: 75 of 14x14")
    if min_block < 1 or (max_block is not None and max_block < 1):
        what = f"blocks of {min_block} to {max_block} units"
        raise InputError(what, "min_block, max_block", "use at least 1")
