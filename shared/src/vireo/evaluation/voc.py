"""Average precision of the PASCAL VOC challenges, vectorised over images, classes and detections.

Detections of a class are taken by falling score. Each is assigned to the object of its class and image that it overlaps
most. It counts as true if that overlap reaches the threshold and no better detection has taken the object, as nothing
if that object is to be ignored (``difficult``, in the COCO format ``iscrowd``), and as false otherwise. Which object a
detection goes to does not depend on the other detections, so "taken" means "not the first of its object" and no loop is
needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vireo.evaluation.flat import FlatPredictions, flatten_predictions


def voc_average_precision(
    ground_truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    iou_threshold: float = 0.5,
    interpolation: Literal["area", "11point"] = "area",
) -> dict[str, Any]:
    """VOC average precision of ``predictions`` (see :mod:`vireo.evaluation`) over all images of ``ground_truth``.

    Args:
        ground_truth: COCO json dict; objects with ``iscrowd`` are ignored; label ``i`` means ``categories[i]``.
        predictions: at most one mapping per image.
        iou_threshold: least overlap of a match, reached at equality.
        interpolation: area under the interpolated curve (VOC 2010 and later), or the mean of the precision at the 11
            recalls 0, 0.1, ..., 1 (VOC 2007).

    Returns:
        ``AP50`` (the name follows the threshold in percent), the mean over the classes that have objects to find, as a
        fraction; and ``per_class``: class name to AP. -1 where there is no object to find.

    Raises:
        InputError: predictions that do not fit the ground truth.
    """
    if interpolation not in ("area", "11point"):
        raise ValueError(f"interpolation is 'area' or '11point', not {interpolation!r}")
    image_ids = [image["id"] for image in ground_truth["images"]]
    categories = ground_truth["categories"]
    detections = flatten_predictions(predictions, image_ids, len(categories))
    rank = {image_id: i for i, image_id in enumerate(image_ids)}
    class_index = {category["id"]: i for i, category in enumerate(categories)}
    annotations = ground_truth["annotations"]
    objects = FlatPredictions(
        image_ids=np.asarray([rank[a["image_id"]] for a in annotations], dtype=np.int64),
        boxes=_xywh_to_xyxy(np.asarray([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)),
        scores=np.zeros(len(annotations)),
        labels=np.asarray([class_index[a["category_id"]] for a in annotations], dtype=np.int64),
    )
    ignored = np.asarray([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)

    # Ties of the score: the earlier image of the ground truth first, then the order within the image.
    detection_rank = np.asarray([rank[int(i)] for i in detections.image_ids], dtype=np.int64)
    order = np.lexsort((detection_rank, -detections.scores))
    detections = FlatPredictions(
        detection_rank[order], detections.boxes[order], detections.scores[order], detections.labels[order]
    )
    true, false = _judge(detections, objects, ignored, len(categories), iou_threshold)

    average = _area if interpolation == "area" else _eleven_points
    per_class = {}
    for index, category in enumerate(categories):
        total = int(np.count_nonzero((objects.labels == index) & ~ignored))
        chosen = detections.labels == index
        tp, fp = true[chosen].cumsum(), false[chosen].cumsum()
        per_class[category["name"]] = average(tp / total, tp / np.maximum(tp + fp, 1)) if total else -1.0
    defined = [value for value in per_class.values() if value >= 0]
    return {
        f"AP{round(100 * iou_threshold)}": float(np.mean(defined)) if defined else -1.0,
        "per_class": per_class,
    }


def _judge(
    detections: FlatPredictions, objects: FlatPredictions, ignored: np.ndarray, num_classes: int, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the (sorted) detections are true and which are false; those on ignored objects are neither."""
    best_iou, best_object = _best_overlap(detections, objects, num_classes)
    hit = best_iou >= iou_threshold
    ignore = hit.copy()
    ignore[hit] = ignored[best_object[hit]]
    candidates = np.flatnonzero(hit & ~ignore)
    _, first = np.unique(best_object[candidates], return_index=True)
    true = np.zeros(len(hit), dtype=bool)
    true[candidates[first]] = True
    return true, ~true & ~ignore


def _best_overlap(
    detections: FlatPredictions, objects: FlatPredictions, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the largest IoU with an object of its image and class, and that object's index.

    The first of equal overlaps counts. Only pairs that share image and class are formed; without one the IoU is -1 and
    the index 0.
    """
    iou_max = np.full(len(detections.scores), -1.0)
    best = np.zeros(len(detections.scores), dtype=np.int64)
    object_key = objects.image_ids * num_classes + objects.labels
    by_key = np.argsort(object_key, kind="stable")
    sorted_key = object_key[by_key]
    key = detections.image_ids * num_classes + detections.labels
    begin, end = np.searchsorted(sorted_key, key, "left"), np.searchsorted(sorted_key, key, "right")
    paired = np.flatnonzero(end > begin)
    if len(paired) == 0:
        return iou_max, best
    count = (end - begin)[paired]
    start = np.cumsum(count) - count  # of each detection's pairs in the list of pairs
    detection = np.repeat(paired, count)
    position = np.arange(len(detection)) - np.repeat(start, count)
    candidate = by_key[begin[detection] + position]
    iou = _paired_iou(detections.boxes[detection], objects.boxes[candidate])
    iou_max[paired] = np.maximum.reduceat(iou, start)
    first = np.where(iou == iou_max[detection], position, len(iou))
    best[paired] = by_key[begin[paired] + np.minimum.reduceat(first, start)]
    return iou_max, best


def _paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes a[i] and b[i], xyxy without the +1 of integer pixels."""
    side = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(min=0)
    intersection = side[:, 0] * side[:, 1]
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)
    iou: np.ndarray = intersection / np.maximum(area_a + area_b - intersection, 1e-6)
    return iou


def _xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision made non-increasing from the right."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or a higher one."""
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, np.arange(11) / 10, side="left")].mean())
