"""Box arithmetic: overlaps, coders, clipping.

Boxes are ``(x1, y1, x2, y2)`` in pixels with ``w = x2 - x1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vireo.errors import InputError

MAX_LOG_RATIO = abs(math.log(16 / 1000))  # a decoded side changes at most 62.5-fold
RPN_STDS = (1.0, 1.0, 1.0, 1.0)
ROI_STDS = (0.1, 0.1, 0.2, 0.2)
ROI_CORNER_STDS = (0.1, 0.1, 0.1, 0.1)
_EPS = 1e-6


def box_area(boxes: Tensor) -> Tensor:
    """Areas ``(...)`` of boxes ``(..., 4)``, square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Intersection areas of boxes ``(..., 4)`` whose leading dimensions broadcast."""
    left_top = torch.maximum(a[..., :2], b[..., :2])
    right_bottom = torch.minimum(a[..., 2:], b[..., 2:])
    sides = (right_bottom - left_top).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU in [0, 1] of boxes ``(..., 4)`` whose leading dimensions broadcast; a union below 1e-6 counts as 1e-6."""
    shared = intersection(a, b)
    return shared / (box_area(a) + box_area(b) - shared).clamp(min=_EPS)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU matrix ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``; degenerate boxes give 0, never NaN."""
    return elementwise_iou(a[:, None], b[None])


def inside_fraction(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Share in [0, 1] of each box's area that lies inside its image.

    Args:
        boxes: ``(..., 4)``.
        image_sizes: ``(..., 2)``, height and width, broadcast against the boxes.
    """
    image = torch.cat([torch.zeros_like(image_sizes), image_sizes.flip(-1)], dim=-1)
    return intersection(boxes, image) / box_area(boxes).clamp(min=_EPS)


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes ``(..., 4)`` moved into ``[0, W] x [0, H]``; ``image_sizes`` ``(..., 2)`` holds height and width."""
    limit = image_sizes.flip(-1)
    return torch.minimum(boxes.clamp(min=0), torch.cat([limit, limit], dim=-1).to(boxes.dtype))


def encode_boxes(reference: Tensor, target: Tensor, stds: tuple[float, ...] = RPN_STDS) -> Tensor:
    """Offsets ``(dx, dy, dw, dh)`` that move ``reference`` onto ``target``; shapes ``(..., 4)`` broadcast.

    ``((gx - px) / pw, (gy - py) / ph, ln(gw / pw), ln(gh / ph)) / stds``. Sides below 1e-6 px count as 1e-6, so that a
    degenerate box gives a large but finite offset.
    """
    size = (reference[..., 2:] - reference[..., :2]).clamp(min=_EPS)
    target_size = (target[..., 2:] - target[..., :2]).clamp(min=_EPS)
    centre = (reference[..., 2:] + reference[..., :2]) * 0.5
    target_centre = (target[..., 2:] + target[..., :2]) * 0.5
    offsets = torch.cat([(target_centre - centre) / size, torch.log(target_size / size)], dim=-1)
    return offsets / offsets.new_tensor(stds)


def decode_boxes(reference: Tensor, offsets: Tensor, stds: tuple[float, ...] = RPN_STDS) -> Tensor:
    """Inverse of :func:`encode_boxes`; log ratios are limited to +-``ln(1000 / 16)``. Not clipped to an image."""
    offsets = offsets * offsets.new_tensor(stds)
    size = reference[..., 2:] - reference[..., :2]
    centre = (reference[..., 2:] + reference[..., :2]) * 0.5 + offsets[..., :2] * size
    half = 0.5 * size * offsets[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return torch.cat([centre - half, centre + half], dim=-1)


def encode_corners(reference: Tensor, target: Tensor, stds: tuple[float, ...] = RPN_STDS) -> Tensor:
    """Offsets of the two corners in units of the reference's sides: the coder of OA-MIL; shapes ``(..., 4)`` broadcast.

    ``((gx1 - px1) / pw, (gy1 - py1) / ph, (gx2 - px2) / pw, (gy2 - py2) / ph) / stds``.
    """
    size = (reference[..., 2:] - reference[..., :2]).clamp(min=_EPS)
    offsets = (target - reference) / torch.cat([size, size], dim=-1)
    return offsets / offsets.new_tensor(stds)


def decode_corners(reference: Tensor, offsets: Tensor, stds: tuple[float, ...] = RPN_STDS) -> Tensor:
    """Inverse of :func:`encode_corners`. Nothing keeps the corners from crossing: a box may come out without area."""
    size = reference[..., 2:] - reference[..., :2]
    return reference + offsets * offsets.new_tensor(stds) * torch.cat([size, size], dim=-1)


@dataclass(frozen=True)
class BoxCoder:
    """How a head expresses one box relative to another.

    Attributes:
        kind: ``"delta"``, centre and log size (SSD-Det); ``"corner"``, both corners (OA-MIL and the published
            baselines).
        stds: offsets are divided by these.
    """

    kind: Literal["delta", "corner"]
    stds: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("delta", "corner"):
            raise InputError(f"unknown coder {self.kind!r}", "box_coder", "use delta or corner")

    def encode(self, reference: Tensor, target: Tensor) -> Tensor:
        """Offsets that move ``reference`` onto ``target``; shapes ``(..., 4)`` broadcast."""
        return (encode_boxes if self.kind == "delta" else encode_corners)(reference, target, self.stds)

    def decode(self, reference: Tensor, offsets: Tensor) -> Tensor:
        """Inverse of :meth:`encode`."""
        return (decode_boxes if self.kind == "delta" else decode_corners)(reference, offsets, self.stds)
