"""Matching anchors and proposals to boxes, and sampling them for the losses."""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import pairwise_iou
from .draws import mask_at_most

IGNORED = -2
BACKGROUND = -1


def assign_by_iou(
    candidates: Tensor,
    boxes: Tensor,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None = None,
    usable: Tensor | None = None,
) -> Tensor:
    """The box each candidate stands for.

    A candidate takes the box it overlaps most if that IoU is at least ``positive_iou`` and is background below
    ``negative_iou``. With ``low_quality_iou`` every box also keeps *all* candidates that tie for its own best IoU, if
    that is at least so much; a later box takes precedence.

    Args:
        candidates: ``(N, 4)``.
        boxes: ``(n, 4)``, possibly none.
        usable: ``(N,)`` bool; the others are ignored.

    Returns:
        ``(N,)`` int64: index of the box, ``BACKGROUND`` (-1) or ``IGNORED`` (-2).
    """
    if len(boxes) == 0:
        match = torch.full((len(candidates),), BACKGROUND, device=candidates.device)
    else:
        iou = pairwise_iou(boxes, candidates)  # (n, N)
        if usable is not None:
            iou = iou.masked_fill(~usable, -1.0)
        best, match = iou.max(0)
        match = match.where(best >= positive_iou, BACKGROUND if negative_iou >= positive_iou else IGNORED)
        match = match.masked_fill(best < negative_iou, BACKGROUND)
        if low_quality_iou is not None:
            own_best = iou.amax(1, keepdim=True)
            tie = (iou == own_best) & (own_best >= low_quality_iou)
            order = torch.arange(1, len(boxes) + 1, device=iou.device)[:, None]
            latest = (tie * order).amax(0)
            match = match.where(latest == 0, latest - 1)
    return match if usable is None else match.masked_fill(~usable, IGNORED)


def sample_matches(match: Tensor, num: int, positive_fraction: float, priority: Tensor) -> tuple[Tensor, Tensor]:
    """Choose at most ``num`` candidates of each image, at most ``positive_fraction`` of them positive.

    Args:
        match: ``(B, N)`` from :func:`assign_by_iou`.
        priority: ``(B, N)`` random numbers; the lowest are taken.

    Returns:
        positive and negative masks ``(B, N)``.
    """
    positive = mask_at_most(match >= 0, int(num * positive_fraction), priority)
    return positive, mask_at_most(match == BACKGROUND, num - positive.sum(1), priority)
