"""The absolute position table of stage 3, resampled for the grid of an image (section 3.1)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

PosResample = Literal["official", "size"]


def resample_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], how: PosResample) -> Tensor:
    """A position table ``(1, R C, D)`` of the grid ``old`` for the grid ``new``, bicubic: ``(1, R' C', D)``.

    Args:
        table: tokens in row-major order.
        old, new: rows and columns.
        how: ``size`` is the plain resize and leaves an equal grid alone. ``official`` is what the authors' networks do
            at every forward pass: the scale is that of a grid a tenth of a unit larger, and is itself used for
            sampling, so the table moves by a fraction of a unit, and even an equal grid is resampled.
    """
    if how == "size" and old == new:
        return table
    image = table.transpose(1, 2).unflatten(2, old)
    if how == "size":
        resized = F.interpolate(image, size=new, mode="bicubic", align_corners=False)
    else:
        scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
        resized = F.interpolate(image, scale_factor=scale, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
