"""Pseudo boxes: every point becomes a box of one size, so that any box detector can be trained on points.

The clip and filter rules are those of the authors' annotation tools and serve everywhere that labels are written. Boxes
are float64 xywh in pixels here, as in the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vireo.errors import InputError

LEAST_SIDE = 2.0  # pixels; labels that are not larger are dropped
LEAST_AREA = 4.0  # square pixels; likewise


def pseudo_boxes(points: Any, size: Any = (16.0, 16.0), image_size: Any | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a given size around points, and which of them are large enough to be trained on.

    Args:
        points: ``(N, 2)`` x and y in pixels.
        size: width and height in pixels, ``(2,)`` for all or ``(N, 2)``.
        image_size: width and height of the image, ``(2,)`` or ``(N, 2)``; boxes are clipped to it
            (:func:`clip_boxes`). None: neither clipped nor filtered.

    Returns:
        Boxes ``(N, 4)`` xywh, and the mask ``(N,)`` of :func:`keep_boxes`. The box of a point outside the image is
        clipped to a sliver, so it is not kept.

    Raises:
        InputError: a size that is not positive, or points that are not finite.
    """
    points = np.asarray(points, np.float64).reshape(-1, 2)
    sides = np.broadcast_to(np.asarray(size, np.float64), points.shape)
    if not np.isfinite(points).all():
        raise InputError("a point is not finite", "pseudo_boxes", "remove it")
    if not (np.isfinite(sides) & (sides > 0)).all():
        raise InputError(f"size {size} is not positive", "pseudo_box", "give width and height in pixels, e.g. 16 16")
    boxes = np.concatenate([points - sides / 2, sides], axis=1)
    if image_size is None:
        return boxes, np.ones(len(boxes), np.bool_)
    boxes = clip_boxes(boxes, image_size)
    return boxes, keep_boxes(boxes)


def clip_boxes(boxes: Any, image_size: Any) -> np.ndarray:
    """Boxes clipped to their images by inclusive pixels, the rule of the authors' tools.

    The last pixel of a box is ``x + w - 1``; first and last pixel are clipped to ``[0, W - 1]``, heights likewise. So
    a box ends at ``W`` at most, and one that lies outside keeps a side of one pixel.

    Args:
        boxes: ``(N, 4)`` xywh.
        image_size: width and height, ``(2,)`` or ``(N, 2)``.

    Returns:
        ``(N, 4)`` xywh.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    last = np.broadcast_to(np.asarray(image_size, np.float64), (len(boxes), 2)) - 1
    start = np.clip(boxes[:, :2], 0, last)
    end = np.clip(boxes[:, :2] + boxes[:, 2:] - 1, 0, last)
    return np.concatenate([start, end - start + 1], axis=1)


def keep_boxes(boxes: Any) -> np.ndarray:
    """The mask ``(N,)`` of boxes ``(N, 4)`` xywh with both sides above 2 pixels and an area above 4."""
    sides = np.asarray(boxes, np.float64).reshape(-1, 4)[:, 2:]
    kept: np.ndarray = (sides > LEAST_SIDE).all(axis=1) & (sides[:, 0] * sides[:, 1] > LEAST_AREA)
    return kept


def class_sizes(
    boxes: Any, classes: Sequence[int] | np.ndarray, mode: Literal["mean_size", "mean_wh"] = "mean_size"
) -> dict[int, tuple[float, float]]:
    """Geometric mean sizes of the true boxes of each class: an oracle's choice of pseudo box, for comparison.

    Args:
        boxes: true boxes ``(N, 4)`` xywh; those with a side under 2 pixels do not count.
        classes: ``(N,)``.
        mode: ``mean_wh`` takes width and height for themselves, ``mean_size`` the root of the area for both.

    Returns:
        Width and height by class, without classes that have no box that counts.

    Raises:
        InputError: another mode.
    """
    if mode not in ("mean_size", "mean_wh"):
        raise InputError(f"{mode!r} is not a choice", "pseudo_box", "use mean_size, mean_wh, or width and height")
    classes = np.asarray(classes)
    sides = np.asarray(boxes, np.float64).reshape(-1, 4)[:, 2:]
    usable = (sides >= LEAST_SIDE).all(axis=1)
    sizes = {}
    for number in np.unique(classes[usable]).tolist():
        logs = np.log(sides[usable & (classes == number)])
        if mode == "mean_size":
            logs = logs.mean(axis=1, keepdims=True)
        width, height = np.broadcast_to(np.exp(logs.mean(axis=0)), 2).tolist()
        sizes[number] = (width, height)
    return sizes
