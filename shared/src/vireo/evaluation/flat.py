"""Predictions of many images as a handful of flat, checked arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vireo.errors import InputError


@dataclass(frozen=True)
class FlatPredictions:
    """The ``n`` predictions of all images, images in the given order and in each image the given order.

    Attributes:
        image_ids: (n,) int64.
        boxes: (n, 4) float64 xyxy, pixels of the original image.
        scores: (n,) float64.
        labels: (n,) int64 class indices.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def flatten_predictions(
    predictions: Sequence[Mapping[str, Any]], image_ids: Sequence[int], num_classes: int
) -> FlatPredictions:
    """Join per-image predictions into flat arrays.

    Args:
        predictions: one mapping per image, see :mod:`vireo.evaluation`; images without one simply have no detections.
        image_ids: the images of the ground truth.
        num_classes: labels must lie in [0, num_classes).

    Raises:
        InputError: an image the ground truth does not have or that comes twice, arrays of different length, a label out
            of range, a score or coordinate that is not finite.
    """
    ids = [int(p["image_id"]) for p in predictions]
    boxes = [_doubles(p["boxes"]).reshape(-1, 4) for p in predictions]
    scores = [_doubles(p["scores"]).reshape(-1) for p in predictions]
    labels = [np.asarray(p["labels"], dtype=np.int64).reshape(-1) for p in predictions]
    _check_images(ids, image_ids)
    for image_id, b, s, c in zip(ids, boxes, scores, labels):
        if not len(b) == len(s) == len(c):
            raise InputError(
                f"{len(b)} boxes, {len(s)} scores and {len(c)} labels",
                f"predictions of image {image_id}",
                "give one score and one label for each box",
            )
    flat = FlatPredictions(
        image_ids=np.repeat(np.asarray(ids, dtype=np.int64), [len(b) for b in boxes]),
        boxes=np.concatenate([np.zeros((0, 4)), *boxes]),
        scores=np.concatenate([np.zeros(0), *scores]),
        labels=np.concatenate([np.zeros(0, dtype=np.int64), *labels]),
    )
    _check_values(flat, num_classes)
    return flat


def _doubles(value: Any) -> np.ndarray:
    # numpy has no bfloat16 and refuses tensors with gradient; torch converts both.
    return np.asarray(value.detach().double().cpu() if hasattr(value, "detach") else value, dtype=np.float64)


def _check_images(ids: Sequence[int], known: Sequence[int]) -> None:
    if unknown := sorted(set(ids) - set(known)):
        raise InputError(
            f"{len(unknown)} image ids are not in the ground truth (first: {unknown[0]})",
            "predictions",
            "evaluate with the annotation file that the images were read from",
        )
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(
            "image has two sets of predictions", f"predictions of image {twice}", "merge them with gather_predictions"
        )


def _check_values(flat: FlatPredictions, num_classes: int) -> None:
    def fail(bad: np.ndarray, what: str, remedy: str) -> None:
        if bad.any():
            raise InputError(what, f"predictions of image {flat.image_ids[bad.argmax()]}", remedy)

    fail(~np.isfinite(flat.scores), "a score is not finite", "check that the training has not diverged")
    fail(~np.isfinite(flat.boxes).all(axis=1), "a box is not finite", "check that the training has not diverged")
    fail(
        (flat.labels < 0) | (flat.labels >= num_classes),
        f"a label lies outside 0..{num_classes - 1}",
        "use a model with the classes of this ground truth",
    )
