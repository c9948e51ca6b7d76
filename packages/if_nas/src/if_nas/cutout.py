"""Cutout (DeVries and Taylor, arXiv 1708.04552) of a batch on its device."""

from __future__ import annotations

import torch
from torch import Tensor

from vireo.data import counter_uniform
from vireo.errors import InputError


def cutout_mask(centres: Tensor, height: int, width: int, side: int) -> Tensor:
    """Where pixels stay: squares around ``centres`` are cut out, clipped at the borders of the image (section 4).

    Args:
        centres: int64 ``(B, 2)``, row and column.
        height, width: of the images.
        side: of the squares; an even one reaches half of it up and left, and half less one pixel down and right.

    Returns:
        bool ``(B, height, width)``
    """
    y, x = (centre[:, None] for centre in centres.unbind(1))
    rows = torch.arange(height, device=centres.device) - y + side // 2
    columns = torch.arange(width, device=centres.device) - x + side // 2
    reach = side // 2 * 2
    cut_rows, cut_columns = (rows >= 0) & (rows < reach), (columns >= 0) & (columns < reach)
    return ~(cut_rows[:, :, None] & cut_columns[:, None, :])


class Cutout:
    """Set a square of each image to 0; its centre is drawn uniformly over the pixels. It belongs behind normalisation.

    Args:
        side: in pixels, even.

    Raises:
        InputError: a side that is not positive and even.
    """

    def __init__(self, side: int = 16) -> None:
        if side < 2 or side % 2:
            raise InputError(f"side {side} is not positive and even", "data.cutout", "use e.g. 16, or null for none")
        self.side = side

    def __call__(self, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """float ``(B, C, H, W)`` and targets with ``key``, to the same."""
        height, width = images.shape[-2:]
        size = torch.tensor((height, width), device=images.device)
        centres = (counter_uniform(targets["key"], "cutout", 2).double() * size).long()
        kept = cutout_mask(centres, height, width, self.side)
        return images.masked_fill(~kept[:, None], 0), targets
