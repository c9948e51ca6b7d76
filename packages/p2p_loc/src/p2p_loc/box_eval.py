"""TinyPerson's box metric: COCO's matching at IoU 0.25, 0.5 and 0.75 for each range of sizes.

Two things differ from COCO (section 5 of the specification): objects flagged ``ignore`` or ``uncertain`` are neutral,
and so is a detection of which enough lies in a neutral object (IoD), whatever their IoU. Average precision is COCO's.

IoD is computed from the IoU, ``IoU / (1 + IoU) * (1 + object / detection)`` in areas. For crowds the authors' code puts
COCO's crowd IoU, which is the share of the detection already, into that formula, and so do we: the result is not the
share, and may be above 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from vireo.errors import InputError

from .annotations import Detections, to_xywh
from .location import NO_OBJECTS, TINY_RANGES, named_values
from .location_curves import Objects, SizeRanges, by_class
from .matching import CONDITIONS, Pairs, condition_bits, scan, shared_images

Iod = Literal["iou", "raised", "off"]

BOX_IGNORE_FLAGS = ("iscrowd", "ignore", "uncertain")
_RECALLS = np.linspace(0, 1, 101)


def evaluate_boxes(
    truth: Mapping[str, Any],
    detections: Detections,
    *,
    ious: Sequence[float] = (0.25, 0.5, 0.75),
    size_ranges: SizeRanges = TINY_RANGES,
    max_dets: int = 200,
    ignore_flags: Sequence[str] = BOX_IGNORE_FLAGS,
    ignore_iod: Iod = "iou",
) -> dict[str, Any]:
    """Average precision and recall of boxes by TinyPerson's standard.

    Args:
        truth: COCO dict: ``images``, ``annotations`` and ``categories``. ``area`` decides the size of an object; it
            defaults to that of the box.
        detections: in pixels of these images.
        ious: least overlaps.
        size_ranges: by name, of the square root of the area, both ends included.
        max_dets: the best detections of an image and class that count; dense images need 1000.
        ignore_flags: fields of annotations that make them neutral; crowds (``iscrowd``) absorb many detections.
        ignore_iod: a detection without partner is neutral if the share of its area inside an object that is neutral is
            at least t, the least overlap (``iou``), or 2 t / (1 + t) (``raised``); ``off``: no such rule, as in COCO.

    Returns:
        ``AP50``, ``AR50``, ``AP25_tiny`` and so on, fractions in [0, 1], means over the classes with objects, -1
        without any; and ``per_class``: the same by class name.
    """
    if ignore_iod not in ("iou", "raised", "off"):
        raise InputError(f"{ignore_iod!r} is unknown", "ignore_iod", "use iou, raised or off")
    if isinstance(ious, str | int | float) or not ious or not all(isinstance(t, int | float) and t > 0 for t in ious):
        raise InputError(f"{ious!r} are no positive numbers", "ious", "give some, as [0.25, 0.5, 0.75]")
    if isinstance(ignore_flags, str):
        raise InputError(f"{ignore_flags!r} is no list", "ignore_flags", "give a list, such as [iscrowd]")
    rows = truth["annotations"]
    objects = Objects.from_coco(rows, ignore_flags)
    boxes, found = to_xywh(objects.boxes), to_xywh(detections.boxes)
    area = np.array([row.get("area", row["bbox"][2] * row["bbox"][3]) for row in rows], np.float64)
    crowd = np.array([bool(row.get("iscrowd")) for row in rows], np.bool_)
    conditions = [_Condition(iou, name, *limits) for (name, limits), iou in product(size_ranges.items(), ious)]
    values = []
    for one in by_class(objects, detections, [category["id"] for category in truth["categories"]], max_dets):
        scene = _Scene(
            boxes[one.objects],
            objects.image_ids[one.objects],
            area[one.objects],
            objects.neutral[one.objects],
            crowd[one.objects],
            found[one.detections],
            detections.image_ids[one.detections],
            detections.scores[one.detections],
        )
        parts = [conditions[i : i + CONDITIONS] for i in range(0, len(conditions), CONDITIONS)]
        values.append([value for part in parts for value in scene.measure(part, ignore_iod)])
    labels = [f"{100 * c.iou:g}" + ("" if c.size == "all" else f"_{c.size}") for c in conditions]
    return named_values(labels, values, [str(category["name"]) for category in truth["categories"]])


class _Condition(NamedTuple):
    iou: float
    size: str
    least: float
    greatest: float


class _Scene(NamedTuple):
    """Objects and detections of a class, by image; detections of an image best first. Boxes are xywh."""

    boxes: np.ndarray
    object_images: np.ndarray
    area: np.ndarray
    neutral: np.ndarray
    crowd: np.ndarray
    found: np.ndarray
    images: np.ndarray
    scores: np.ndarray

    def measure(self, conditions: Sequence[_Condition], ignore_iod: Iod) -> list[tuple[float, float]]:
        """Average precision and recall under up to 64 conditions."""
        regular, own_size = (np.zeros(len(self.area), np.uint64), np.zeros(len(self.scores), np.uint64))
        area = self.found[:, 2] * self.found[:, 3]
        for _, size, least, greatest in conditions:
            chosen = condition_bits(condition.size == size for condition in conditions)
            inside = (self.area >= least**2) & (self.area <= greatest**2) & ~self.neutral
            regular[inside] |= chosen
            own_size[(area >= least**2) & (area <= greatest**2)] |= chosen
        pairs, iod = self.pairs()
        passes, absorbing = (np.zeros(len(iod), np.uint64) for _ in range(2))
        for least in {condition.iou for condition in conditions}:
            chosen = condition_bits(condition.iou == least for condition in conditions)
            passes[pairs.nearness >= min(least, 1 - 1e-10)] |= chosen
            absorbing[iod >= (2 * least / (1 + least) if ignore_iod == "raised" else least)] |= chosen

        count = len(self.scores)
        alone = np.arange(count)  # one detection after the other, ties of scores in their order
        right, neutral = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        looked, taken = scan(pairs, self.images, alone, passes, regular)
        np.bitwise_or.at(right, pairs.detections[looked], taken)
        looked, taken = scan(pairs, self.images, alone, passes, ~regular, ~right, self.crowd)
        np.bitwise_or.at(neutral, pairs.detections[looked], taken)
        if ignore_iod != "off":
            np.bitwise_or.at(neutral, pairs.detections, absorbing & ~regular[pairs.objects])
        neutral |= ~own_size  # a detection of another size is not wrong
        ranking = np.argsort(-self.scores, kind="stable")
        right, shown = right[ranking], (right | ~neutral)[ranking]
        bits = [np.uint64(1 << k) for k in range(len(conditions))]
        return [_measure(right & bit != 0, shown & bit != 0, int(np.count_nonzero(regular & bit))) for bit in bits]

    def pairs(self) -> tuple[Pairs, np.ndarray]:
        """Detections and objects that overlap, later objects first, with IoU as nearness; and the IoD of each."""
        nothing = np.zeros(0)
        rows, columns, overlaps, shares = [nothing.astype(int)], [nothing.astype(int)], [nothing], [nothing]
        for a, b, c, d in shared_images(self.images, self.object_images):
            one, two = self.found[a:b, None], self.boxes[None, c:d]
            sides = np.minimum(one[..., :2] + one[..., 2:], two[..., :2] + two[..., 2:])
            inside = np.maximum(sides - np.maximum(one[..., :2], two[..., :2]), 0).prod(-1)
            row, column = np.nonzero(inside[:, ::-1])
            column = d - c - 1 - column
            own, other = one[row, 0, 2:].prod(-1), two[0, column, 2:].prod(-1)
            inside = inside[row, column]
            iou = inside / np.where(self.crowd[c:d][column], own, own + other - inside)
            rows.append(row + a)
            columns.append(column + c)
            overlaps.append(iou)
            shares.append(iou / (1 + iou) * (1 + other / own))
        pairs = Pairs(*(np.concatenate(part) for part in (rows, columns, overlaps)))
        return pairs, np.concatenate(shares)


def _measure(right: np.ndarray, shown: np.ndarray, objects: int) -> tuple[float, float]:
    """COCO's average precision, with the best precision at this or a higher recall, and the share that is found."""
    if not objects:
        return NO_OBJECTS, NO_OBJECTS
    hits = np.flatnonzero(right)
    if not len(hits):
        return 0.0, 0.0
    precision = np.arange(1, len(hits) + 1) / np.cumsum(shown)[hits]
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    recall = np.arange(1, len(hits) + 1) / objects
    return float(envelope[np.searchsorted(recall, _RECALLS)].mean()), float(recall[-1])
