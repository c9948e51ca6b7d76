"""Which location of the pyramid stands for which object (sections 3.4 and 11 of the notes)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BACKGROUND = -1
IGNORED = -2
POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4
_EPS = 1e-6

Sizes = Sequence[tuple[int, int]]


def grid_locations(sizes: Sizes, strides: Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """Locations of all levels, row by row: float32 ``(N, 3)`` of x, y (multiples of the stride) and stride, pixels.

    Args:
        sizes: ``(h, w)`` of each level's map.
        strides: of each level.
    """
    levels = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        rows = torch.arange(height, device=device, dtype=torch.float32) * stride
        columns = torch.arange(width, device=device, dtype=torch.float32) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        levels.append(torch.stack([x, y, torch.full_like(x, stride)], dim=-1).flatten(0, 1))
    return torch.cat(levels)


def assign_points(
    boxes: Tensor,
    sizes: Sizes,
    strides: Sequence[int],
    scale: float,
    pos_num: int = 1,
    area: tuple[float, float] | None = None,
) -> Tensor:
    """The object that each location starts from: the nearest locations on the one level that fits an object's size.

    The level of a box is the integer part of the mean of ``log2(w / scale)`` and ``log2(h / scale)``, clamped to the
    levels that there are. On it the object claims the ``pos_num`` locations nearest to its centre, distances being in
    units of its width and height; of equal ones the first. Of several objects that claim a location the nearest has
    it, of equally near ones the first; the others go away empty.

    The locations are a regular grid, so the nearest ones lie in a small window around the centre. Only that is looked
    at, for all objects at once; the outcome is that of comparing all locations.

    Args:
        boxes: ``(n, 4)`` xyxy, pixels.
        sizes, strides: of the levels, as for :func:`grid_locations`; each stride is twice the one before.
        scale: ``base_scale`` of the detector.
        pos_num: locations for each object.
        area: ``(h, w)`` in pixels; locations outside have no object. Default: all locations.

    Returns:
        ``(N,)`` int64: index of the box, or ``BACKGROUND`` (-1).
    """
    device, count = boxes.device, len(boxes)
    total = sum(height * width for height, width in sizes)
    if count == 0:
        return torch.full((total,), BACKGROUND, device=device)
    centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=_EPS)
    lowest = int(math.log2(strides[0]))
    level = ((side / scale).log2().sum(1) / 2).long().clamp(lowest, lowest + len(strides) - 1) - lowest

    # (levels, 4) of the first location, the width of the map, columns and rows inside the area
    table, first = [], 0
    for (height, width), stride in zip(sizes, strides, strict=True):
        inside = (height, width) if area is None else [math.ceil(length / stride) for length in area]
        table.append([first, width, min(width, inside[1]), min(height, inside[0])])
        first += height * width
    numbers = torch.tensor(table, device=device)[level]
    stride_of = torch.tensor(strides, device=device)[level][:, None]

    window = pos_num + 2  # one more on either side, where rounding makes distances equal
    corner = (centre / stride_of - window / 2).ceil().long()
    corner = torch.minimum(corner, numbers[:, 2:] - window).clamp(min=0)
    cells = corner[:, :, None] + torch.arange(window, device=device)  # (n, 2, window): columns and rows
    offset = (cells * stride_of[..., None] - centre[..., None]) / side[..., None]
    x, y = offset.unbind(1)
    distance = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), dim=-1).norm(dim=-1)
    outside = cells >= numbers[:, 2:, None]
    distance = distance.masked_fill(outside[:, 0, None] | outside[:, 1, :, None], torch.inf).flatten(1)
    location = (numbers[:, :1, None] + cells[:, 1, :, None] * numbers[:, 1, None, None] + cells[:, 0, None]).flatten(1)

    distance, chosen = distance.sort(dim=1, stable=True)
    distance, location = distance[:, :pos_num], location.gather(1, chosen[:, :pos_num])
    location = location.where(distance.isfinite(), 0)
    nearest = distance.new_full((total,), torch.inf).scatter_reduce(0, location.flatten(), distance.flatten(), "amin")
    holds = (distance == nearest[location]) & distance.isfinite()
    owner = torch.arange(count, device=device)[:, None].where(holds, count)
    assigned = torch.full((total,), count, device=device).scatter_reduce(0, location.flatten(), owner.flatten(), "amin")
    return assigned.where(assigned < count, BACKGROUND)


@torch.no_grad()
def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU ``(N, M)`` in [0, 1] of boxes ``(N, 4)`` and ``(M, 4)`` xyxy; a union below 1e-6 counts as 1e-6."""
    # each coordinate in one piece and few new matrices: four times as fast on a CPU
    x1, y1, x2, y2 = a.T[:, :, None]
    u1, v1, u2, v2 = b.T.contiguous()[:, None]
    shared = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    shared *= torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    union = ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)).sub_(shared)
    return shared.div_(union.clamp_(min=_EPS))


def assign_by_iou(candidates: Tensor, boxes: Tensor, usable: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The object that each box of the first stage is refined to.

    A candidate takes the box it overlaps most if that IoU is at least 0.5, is background below 0.4 and ignored between.
    Moreover every box keeps *all* candidates that reach its own best IoU, whatever it is; a later box takes precedence.
    As in the authors' code, that best IoU may be 0: then a box that no candidate overlaps gets all candidates.

    Args:
        candidates: ``(N, 4)`` xyxy.
        boxes: ``(n, 4)``, possibly none.
        usable: ``(N,)`` bool; the others are ignored. By default all are usable.

    Returns:
        ``(N,)`` int64, index of the box, ``BACKGROUND`` (-1) or ``IGNORED`` (-2), and the best IoU ``(N,)``.
    """
    if len(boxes) == 0:
        best = candidates.new_zeros(len(candidates))
        match = torch.full((len(candidates),), BACKGROUND, device=candidates.device)
    else:
        iou = pairwise_iou(boxes, candidates)  # (n, N)
        if usable is not None:
            iou = iou.masked_fill(~usable, -1.0)
        best, match = iou.max(0)
        match = match.where(best >= POSITIVE_IOU, IGNORED).masked_fill(best < NEGATIVE_IOU, BACKGROUND)
        box, candidate = (iou == iou.amax(1, keepdim=True)).nonzero(as_tuple=True)
        latest = torch.full_like(match, -1).scatter_reduce(0, candidate, box, "amax")
        match = match.where(latest < 0, latest)
    return match if usable is None else match.masked_fill(~usable, IGNORED), best
