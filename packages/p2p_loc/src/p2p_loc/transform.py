"""From the points of a RepPoints location to a box (section 3.4 of the notes; Yang et al., ICCV 2019, section 3.2)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from vireo.errors import InputError

Transform = Literal["moment", "minmax", "partial_minmax"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)
TRANSFER_RATE = 0.01  # share of the gradient that reaches the moments' log scales
PARTIAL_POINTS = 4


def points_to_boxes(
    points: Tensor, transform: Transform = "moment", moment_transfer: Tensor | None = None, *, y_first: bool = True
) -> Tensor:
    """The box that a set of points stands for.

    ``moment``: the mean of the points, and on either side their standard deviation times ``exp(moment_transfer)``.
    ``minmax``: their bounding box. ``partial_minmax``: that of the first four.

    Args:
        points: ``(B, 2n, ...)``, the coordinates of n points in pairs.
        moment_transfer: ``(2,)``, log scale of the half width and of the half height; needed by ``moment``.
        y_first: pairs are (y, x), the order of a deformable convolution's offsets; else (x, y).

    Returns:
        ``(B, 4, ...)`` xyxy in the unit of the points.

    Raises:
        InputError: unknown transform.
    """
    if transform not in TRANSFORMS:
        raise InputError(f"unknown transform {transform!r}", "model.transform", f"use one of {', '.join(TRANSFORMS)}")
    first, second = points.unflatten(1, (-1, 2)).unbind(2)
    xy = torch.stack([second, first] if y_first else [first, second], dim=1)  # (B, 2, n, ...)
    if transform == "moment":
        if moment_transfer is None:
            raise ValueError("the moments need moment_transfer")
        scale = (TRANSFER_RATE * moment_transfer + (1 - TRANSFER_RATE) * moment_transfer.detach()).exp()
        centre = xy.mean(2)
        half = xy.std(2) * scale.view(2, *[1] * (centre.ndim - 2))
        return torch.cat([centre - half, centre + half], dim=1)
    if transform == "partial_minmax":
        xy = xy[:, :, :PARTIAL_POINTS]
    return torch.cat([xy.amin(2), xy.amax(2)], dim=1)
