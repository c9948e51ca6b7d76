"""Joining the detections of tiles: shifted to their places, then one non-maximum suppression over the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .nms import multiclass_nms


def merge_tiles(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    offsets: Any,
    *,
    labels: Sequence[Tensor] | None = None,
    score_threshold: float = 0.05,
    iou: float = 0.5,
    max_detections: int = 1000,
) -> dict[str, Tensor]:
    """The detections of an image from the candidates of its tiles, as prediction joins them.

    Args:
        boxes: by tile ``(K, 4)`` xyxy in pixels of the tile.
        scores: by tile ``(K, C)``; or ``(K,)`` with ``labels``.
        offsets: ``(T, 2)`` left and top of the tiles, or their ``(T, 4)`` corners.
        labels: by tile ``(K,)`` class indices, where each box has one class.
        score_threshold, iou, max_detections: of :func:`~p2p_loc.nms.multiclass_nms`.

    Returns:
        ``boxes`` ``(n, 4)`` xyxy in pixels of the whole image, ``scores`` ``(n,)`` and ``labels`` ``(n,)``, best first.
    """
    if not boxes:
        return {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}
    starts = np.asarray(offsets).reshape(len(boxes), -1)[:, :2].tolist()
    joined = torch.cat([tile + tile.new_tensor([x, y, x, y]) for tile, (x, y) in zip(boxes, starts, strict=True)])
    values = torch.cat(list(scores))
    if labels is not None:
        index = torch.cat(list(labels))
        by_class = values.new_zeros(len(values), int(index.max()) + 1 if len(index) else 1)
        values = by_class.scatter_(1, index[:, None], values[:, None])
    return multiclass_nms(joined, values, score_threshold=score_threshold, iou=iou, max_detections=max_detections)


def offline_merge(boxes: Any, scores: Any, offsets: Any, *, iou: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Joining of result files of tiles, as the authors' script did: classes do not matter.

    A box is dropped if its overlap with a better one that stays is at least ``iou``, with areas in inclusive pixels.

    Args:
        boxes: ``(M, 4)`` xywh in pixels of the tiles.
        scores: ``(M,)``.
        offsets: ``(M, 2)`` left and top of each box's tile.

    Returns:
        int64 ``(n,)``, the boxes that stay, in rising order, and all boxes ``(M, 4)`` xywh in pixels of the image.
    """
    moved = np.array(boxes, np.float64).reshape(-1, 4)
    moved[:, :2] += np.asarray(offsets, np.float64).reshape(-1, 2)
    start, end = moved[:, :2], moved[:, :2] + moved[:, 2:]
    area = (end - start + 1).prod(axis=1)
    waiting = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept = []
    while len(waiting):
        best, rest = waiting[0], waiting[1:]
        kept.append(best)
        sides = np.minimum(end[best], end[rest]) - np.maximum(start[best], start[rest]) + 1
        overlap = np.maximum(sides, 0).prod(axis=1)
        waiting = rest[overlap < iou * (area[best] + area[rest] - overlap)]
    return np.sort(np.array(kept, np.int64)), moved
