"""COCO detection metrics for boxes and masks: pycocotools' definition and numbers, faster-coco-eval's C++ engine.

What pycocotools leaves to the caller is settled here: no predictions at all give zeros, a class without objects -1, ids
of annotations are free (pycocotools takes a match with annotation id 0 for a miss), the ground truth is not modified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np

from vireo.errors import InputError
from vireo.evaluation.flat import flatten_predictions

Metrics = dict[str, Any]


def evaluate_coco(
    ground_truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    iou_type: Literal["bbox", "segm"] = "bbox",
) -> Metrics:
    """COCO metrics of ``predictions`` (see :mod:`vireo.evaluation`) over all images of ``ground_truth``.

    Args:
        ground_truth: COCO json dict with ``images`` (``id``, and for masks ``height``, ``width``), ``annotations`` and
            ``categories``; label ``i`` means ``categories[i]``. ``area`` defaults to that of the box, ``iscrowd`` to 0.
        predictions: at most one mapping per image. Boxes are turned to xywh in float64.
        iou_type: overlap of boxes, or of masks: then every annotation has a ``segmentation`` (polygons or run lengths)
            and every prediction ``masks``; the sizes of detections are those of their masks.

    Returns:
        ``AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl`` as fractions, and ``per_class``: class name to AP. A
        value is -1 where there is no object to find.

    Raises:
        InputError: ground truth without images, annotations of unknown images or categories or without masks that are
            needed, or predictions that do not fit (see :func:`vireo.evaluation.flat.flatten_predictions`).
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type is 'bbox' or 'segm', not {iou_type!r}")
    from faster_coco_eval import COCO, COCOeval_faster

    categories = ground_truth["categories"]
    images = ground_truth["images"]
    if not images:
        raise InputError("no images", "ground truth", "give an annotation file with at least one image")
    header = {"images": images, "categories": categories}
    target, result = COCO(), COCO()
    target.dataset = {**header, "annotations": _annotations(ground_truth, iou_type)}
    result.dataset = {**header, "annotations": _detections(ground_truth, predictions, iou_type)}
    target.createIndex()
    result.createIndex()
    evaluator = COCOeval_faster(target, result, iou_type)
    evaluator.evaluate()
    evaluator.accumulate()
    # The engine orders classes by category id; the table follows the ground truth's own order.
    column = {category_id: k for k, category_id in enumerate(evaluator.params.catIds)}
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    return _summary(precision, recall) | {
        "per_class": {c["name"]: _mean(precision[:, :, column[c["id"]], 0, -1]) for c in categories}
    }


def _annotations(ground_truth: Mapping[str, Any], iou_type: str) -> list[dict[str, Any]]:
    """Own copies of the annotations (the engine writes into them) with ids from 1 and the optional fields filled in."""
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    copies = []
    for new_id, annotation in enumerate(ground_truth["annotations"], start=1):
        where = f"ground truth: annotation {annotation.get('id', new_id)}"
        if annotation["image_id"] not in images:
            raise InputError(f"image {annotation['image_id']} is not listed", where, "add the image or drop the record")
        if annotation["category_id"] not in categories:
            raise InputError(
                f"category {annotation['category_id']} is not listed", where, "add the category or drop the record"
            )
        x, y, w, h = annotation["bbox"]
        copy = {
            "id": new_id,
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": [float(x), float(y), float(w), float(h)],
            "area": float(annotation.get("area", w * h)),
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }
        if iou_type == "segm":
            if not annotation.get("segmentation"):
                raise InputError("no segmentation", where, "evaluate boxes, or use annotations with masks")
            copy["segmentation"] = annotation["segmentation"]
        copies.append(copy)
    return copies


def _detections(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], iou_type: str
) -> list[dict[str, Any]]:
    """Predictions as COCO result records with the fields that the engine reads."""
    category_ids = np.asarray([c["id"] for c in ground_truth["categories"]], dtype=np.int64)
    flat = flatten_predictions(predictions, [image["id"] for image in ground_truth["images"]], len(category_ids))
    xywh = flat.boxes.copy()
    xywh[:, 2:] -= xywh[:, :2]
    area = xywh[:, 2] * xywh[:, 3]
    masks: list[dict[str, Any]] = []
    if iou_type == "segm":
        from faster_coco_eval import mask as mask_utils

        masks = list(chain.from_iterable(_run_lengths(p) for p in predictions))
        area = np.asarray(mask_utils.area(masks) if masks else [], dtype=np.float64)
    # One conversion to Python numbers per column: a tolist() per detection costs more than the engine's work on it.
    columns = zip(
        flat.image_ids.tolist(),
        category_ids[flat.labels].tolist(),
        xywh.tolist(),
        flat.scores.tolist(),
        area.tolist(),
    )
    records: list[dict[str, Any]] = [
        {"id": i, "image_id": image_id, "category_id": c, "bbox": box, "score": s, "area": a, "iscrowd": 0}
        for i, (image_id, c, box, s, a) in enumerate(columns, start=1)
    ]
    for record, mask in zip(records, masks):
        record["segmentation"] = mask
    return records


def _run_lengths(prediction: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Masks of one image as COCO run-length encodings; (n, H, W) arrays are encoded, encodings pass."""
    from faster_coco_eval import mask as mask_utils

    where = f"predictions of image {prediction['image_id']}"
    number = len(prediction["scores"])
    if "masks" not in prediction:
        raise InputError("no masks", where, "evaluate boxes, or use a model that predicts masks")
    masks = prediction["masks"]
    if len(masks) != number:
        raise InputError(f"{len(masks)} masks for {number} scores", where, "give one mask for each box")
    if number == 0 or isinstance(masks[0], dict):
        return list(masks)
    column_major = np.asfortranarray(np.asarray(masks, dtype=np.uint8).transpose(1, 2, 0))
    encoded: list[dict[str, Any]] = mask_utils.encode(column_major)
    return encoded


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The twelve standard numbers.

    Args:
        precision: (10 IoU thresholds .5:.05:.95, 101 recalls, classes, areas all/s/m/l, 1/10/100 detections); -1
            where there is no object.
        recall: the same without the recall axis.
    """
    return {
        "AP": _mean(precision[..., 0, 2]),
        "AP50": _mean(precision[0, ..., 0, 2]),
        "AP75": _mean(precision[5, ..., 0, 2]),
        "APs": _mean(precision[..., 1, 2]),
        "APm": _mean(precision[..., 2, 2]),
        "APl": _mean(precision[..., 3, 2]),
        "AR1": _mean(recall[..., 0, 0]),
        "AR10": _mean(recall[..., 0, 1]),
        "AR100": _mean(recall[..., 0, 2]),
        "ARs": _mean(recall[..., 1, 2]),
        "ARm": _mean(recall[..., 2, 2]),
        "ARl": _mean(recall[..., 3, 2]),
    }


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
