"""How good labels are, and how far refinement moved them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .annotations import PointAnnotations, centres

_STILL = 5e-4  # pixels: half the last decimal of the files; less is no movement


def label_error(boxes: np.ndarray, true_boxes: np.ndarray) -> float | None:
    """Mean distance of the centres of labels from the true centres, in sides of the true boxes.

    ``sqrt((dx / w)^2 + (dy / h)^2)``, the distance of the location metric; 0.375 is what uniform points have.

    Args:
        boxes: ``(N, 4)`` xyxy.
        true_boxes: ``(N, 4)`` xyxy; rows of NaN (unknown) do not count.

    Returns:
        The mean, or None where no true box is known.
    """
    distance = _distances(boxes, true_boxes)
    known = np.isfinite(distance)
    return float(distance[known].mean()) if known.any() else None


def label_statistics(initial: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, float | int | None]:
    """What refinement did to labels.

    Args:
        initial: COCO dict of the points with their first boxes.
        labels: COCO dict of a round: objects of ``initial`` with other boxes.

    Returns:
        ``objects`` (of the labels), ``dropped`` (of ``initial``, not among the labels), ``moved`` (share of the labels
        whose centre is another), ``movement`` (mean distance between first and present centre in pixels), ``size``
        (mean root of the area in pixels), and, None where no true box is known, ``error`` (:func:`label_error`),
        ``initial_error`` of the same objects and ``improved`` (share that came closer to the true centre).
    """
    now, first = PointAnnotations.from_coco(labels, "labels"), PointAnnotations.from_coco(initial)
    place = {number: i for i, number in enumerate(first.ids.tolist())}
    first = first.select(np.array([place[number] for number in now.ids.tolist()], np.int64))
    movement = np.linalg.norm(centres(now.boxes) - centres(first.boxes), axis=1)
    sides = now.boxes[:, 2:] - now.boxes[:, :2]
    count = len(now)
    statistics: dict[str, float | int | None] = {
        "objects": count,
        "dropped": len(place) - count,
        "moved": float((movement > _STILL).mean()) if count else 0.0,
        "movement": float(movement.mean()) if count else 0.0,
        "size": float(np.sqrt(sides.prod(1)).mean()) if count else 0.0,
        "error": None,
        "initial_error": None,
        "improved": None,
    }
    if first.true_boxes is not None:
        before, after = _distances(first.boxes, first.true_boxes), _distances(now.boxes, first.true_boxes)
        known = np.isfinite(before)
        statistics["error"] = label_error(now.boxes, first.true_boxes)
        statistics["initial_error"] = label_error(first.boxes, first.true_boxes)
        statistics["improved"] = float((after[known] < before[known]).mean()) if known.any() else None
    return statistics


def _distances(boxes: np.ndarray, true_boxes: np.ndarray) -> np.ndarray:
    """``(N,)`` in sides of the true boxes; NaN where those are unknown."""
    true_boxes = np.asarray(true_boxes, np.float64).reshape(-1, 4)
    shift = centres(np.asarray(boxes, np.float64).reshape(-1, 4)) - centres(true_boxes)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance: np.ndarray = np.linalg.norm(shift / (true_boxes[:, 2:] - true_boxes[:, :2]), axis=1)
    return distance
