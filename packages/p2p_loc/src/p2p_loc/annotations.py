"""Point annotations and detections of a whole data set as arrays, and their way to COCO json and back.

In files, boxes are COCO's ``[x, y, w, h]`` in pixels; in memory they are ``x1, y1, x2, y2`` with ``x2 = x + w``. Of an
annotation of this method, ``point`` is the coarse point ``[x, y]``, ``bbox`` the label that a detector is trained on
(at first a pseudo box around the point) and ``true_bbox`` the object's box, which serves evaluation only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from vireo.errors import InputError

from .coco_content import is_vector

DECIMALS = 3  # of every number in the files


@dataclass(frozen=True)
class PointAnnotations:
    """The annotations of a data set of N objects; an image may be a tile of a larger one.

    Attributes:
        ids: int64 ``(N,)``, unique.
        image_ids: int64 ``(N,)``.
        classes: int64 ``(N,)``, category ids.
        points: float64 ``(N, 2)``, the coarse points, x and y in pixels of the image.
        boxes: float64 ``(N, 4)`` xyxy, the labels: the pseudo boxes of the points, or boxes made from them.
        image_sizes: float64 ``(N, 2)``, width and height of each object's image.
        true_boxes: float64 ``(N, 4)`` xyxy, or None where they are not known; NaN for single objects without.
        full: bool ``(N,)``, objects whose label is their true box (semi-supervised training).
    """

    ids: np.ndarray
    image_ids: np.ndarray
    classes: np.ndarray
    points: np.ndarray
    boxes: np.ndarray
    image_sizes: np.ndarray
    true_boxes: np.ndarray | None
    full: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_coco(cls, content: Mapping[str, Any], where: str = "annotations") -> Self:
        """The annotations of a COCO dict in the order of the file.

        Args:
            content: with ``images`` (``id``, ``width``, ``height``) and ``annotations`` (``id``, ``image_id``,
                ``category_id``, ``point``, ``bbox``; ``true_bbox`` and ``is_fully`` may be absent).
            where: names the file in messages.

        Raises:
            InputError: an annotation without point or box, of an unknown image, or with numbers that are not finite.
        """
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        rows = content["annotations"]
        for row in rows:
            if row.get("image_id") not in sizes:
                what = f"annotation {row.get('id')} is of image {row.get('image_id')}, which is not listed"
                raise InputError(what, where, "list the image, or remove the annotation")
            for key, count in (("point", 2), ("bbox", 4)):
                if not is_vector(row.get(key), count):
                    what = f"annotation {row.get('id')} has no {key!r} of {count} finite numbers"
                    raise InputError(what, where, "make point annotations and pseudo boxes with p2p-points")
        known = any("true_bbox" in row for row in rows)
        nowhere = [np.nan] * 4
        return cls(
            ids=np.array([row["id"] for row in rows], np.int64),
            image_ids=np.array([row["image_id"] for row in rows], np.int64),
            classes=np.array([row["category_id"] for row in rows], np.int64),
            points=np.array([row["point"] for row in rows], np.float64).reshape(-1, 2),
            boxes=to_xyxy([row["bbox"] for row in rows]),
            image_sizes=np.array([sizes[row["image_id"]] for row in rows], np.float64).reshape(-1, 2),
            true_boxes=to_xyxy([row.get("true_bbox", nowhere) for row in rows]) if known else None,
            full=np.array([bool(row.get("is_fully")) for row in rows], np.bool_),
        )

    def with_boxes(self, boxes: np.ndarray) -> Self:
        """The same objects with other labels ``(N, 4)`` xyxy."""
        return replace(self, boxes=np.asarray(boxes, np.float64))

    def select(self, chosen: np.ndarray) -> Self:
        """Some of the objects, by a mask or by positions."""
        true_boxes = None if self.true_boxes is None else self.true_boxes[chosen]
        return type(self)(
            self.ids[chosen],
            self.image_ids[chosen],
            self.classes[chosen],
            self.points[chosen],
            self.boxes[chosen],
            self.image_sizes[chosen],
            true_boxes,
            self.full[chosen],
        )

    def relabel(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the COCO dict ``content`` whose annotations are these, with their boxes as ``bbox``.

        Annotations of ``content`` that are not among these are left out; all other entries stay.
        """
        boxes = dict(zip(self.ids.tolist(), rounded(to_xywh(self.boxes)).tolist()))
        rows = [{**row, "bbox": boxes[row["id"]]} for row in content["annotations"] if row["id"] in boxes]
        return {**content, "annotations": rows}


@dataclass(frozen=True)
class Detections:
    """The detections of a data set, M of them.

    Attributes:
        image_ids: int64 ``(M,)``.
        boxes: float64 ``(M, 4)`` xyxy in pixels of the image.
        scores: float64 ``(M,)`` in [0, 1].
        classes: int64 ``(M,)``, category ids.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_predictions(cls, predictions: Iterable[Mapping[str, Any]], category_ids: Sequence[int]) -> Self:
        """From a dict for each image: ``image_id``, ``boxes`` ``(n, 4)`` xyxy, ``scores``, ``labels`` (class indices).

        Args:
            predictions: tensors on the CPU or arrays.
            category_ids: category id by class index.
        """
        ids, boxes, scores, classes = [np.zeros(0, np.int64)], [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0, int)]
        numbers = np.asarray(category_ids, np.int64)
        for found in predictions:
            ids.append(np.full(len(found["scores"]), found["image_id"], np.int64))
            boxes.append(np.asarray(found["boxes"], np.float64).reshape(-1, 4))
            scores.append(np.asarray(found["scores"], np.float64))
            classes.append(numbers[np.asarray(found["labels"], np.int64)])
        return cls(np.concatenate(ids), np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes))

    @classmethod
    def from_coco(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """From COCO's result format: ``image_id``, ``category_id``, ``bbox`` xywh, ``score``."""
        return cls(
            np.array([row["image_id"] for row in rows], np.int64),
            to_xyxy([row["bbox"] for row in rows]),
            np.array([row["score"] for row in rows], np.float64),
            np.array([row["category_id"] for row in rows], np.int64),
        )

    def coco(self) -> list[dict[str, Any]]:
        """COCO's result format; boxes with three decimals, scores with six."""
        columns = zip(
            self.image_ids.tolist(),
            self.classes.tolist(),
            rounded(to_xywh(self.boxes)).tolist(),
            self.scores.round(6).tolist(),
        )
        return [{"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in columns]


def to_xyxy(boxes: Any) -> np.ndarray:
    """float64 ``(n, 4)`` of x1, y1, x2, y2 from x, y, w, h."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners


def to_xywh(boxes: Any) -> np.ndarray:
    """float64 ``(n, 4)`` of x, y, w, h from x1, y1, x2, y2."""
    sides = np.array(boxes, np.float64).reshape(-1, 4)
    sides[:, 2:] -= sides[:, :2]
    return sides


def centres(boxes: Any) -> np.ndarray:
    """float64 ``(n, 2)``, x and y, of boxes ``(n, 4)`` xyxy."""
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    middle: np.ndarray = (corners[:, :2] + corners[:, 2:]) / 2
    return middle


def rounded(values: np.ndarray) -> np.ndarray:
    """With as many decimals as the files have."""
    return np.round(values, DECIMALS)
