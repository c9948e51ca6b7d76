"""The location metric: average precision and recall of points, by distance, by size of the objects.

Section 5 of the specification, and the authors' evaluation where it leaves a choice. What differs from common sense is
kept by default, so that numbers compare with theirs; the arguments of :class:`LocationEvaluator` undo it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from vireo.errors import InputError

from .annotations import Detections, to_xywh, to_xyxy
from .matching import CONDITIONS, Pairs, near_pairs, scan, score_groups, threshold

SizeRanges = Mapping[str, tuple[float, float]]

TINY_RANGES: SizeRanges = {
    "all": (1, 1e5),
    "tiny": (1, 20),
    "tiny1": (1, 8),
    "tiny2": (8, 12),
    "tiny3": (12, 20),
    "small": (20, 32),
    "reasonable": (32, 1e5),
}
"""TinyPerson's ranges of ``sqrt(w h)`` in pixels: from the first number up to below the second."""

_RECALLS = np.linspace(0, 1, 101)
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
_NOWHERE = -1.0  # of a class or range without objects, where these are left out


class Condition(NamedTuple):
    """What one number is measured under: a distance, a range of sizes, and how many detections an image may have."""

    tau: float
    size: str
    max_dets: int


class Curve(NamedTuple):
    """Precision by recall of one class under one condition.

    Attributes:
        recall, precision: float64 ``(r,)``, one entry for each recall that is reached, rising: the first that has it.
        objects: how many were to be found.
    """

    recall: np.ndarray
    precision: np.ndarray
    objects: int

    @property
    def average_precision(self) -> float:
        """Mean precision at the recalls 0, 0.01, ..., 1: that of the first entry with at least this recall, else 0."""
        if not len(self.recall):
            return float(self.objects == 0)
        place = np.searchsorted(self.recall, _RECALLS)
        reached = place < len(self.recall)
        return float(self.precision[place[reached]].sum() / len(_RECALLS))

    @property
    def best_recall(self) -> float:
        """Share of the objects that were found."""
        return float(self.recall[-1]) if len(self.recall) else float(self.objects == 0)


@dataclass(frozen=True)
class Objects:
    """N objects to be found, of all images.

    Attributes:
        image_ids, classes: int64 ``(N,)``, as those of :class:`~p2p_loc.annotations.Detections`.
        boxes: float64 ``(N, 4)`` xyxy.
        neutral: bool ``(N,)``, need not be found; what is found near them is neither right nor wrong.
    """

    image_ids: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    neutral: np.ndarray

    @classmethod
    def from_coco(cls, rows: Sequence[Mapping[str, Any]], ignore_flags: Sequence[str] = ("iscrowd",)) -> Objects:
        """From COCO annotations; one of ``ignore_flags`` that is absent counts as false."""
        return cls(
            np.array([row["image_id"] for row in rows], np.int64),
            np.array([row["category_id"] for row in rows], np.int64),
            to_xyxy([row["bbox"] for row in rows]),
            np.array([any(row.get(flag) for flag in ignore_flags) for row in rows], np.bool_),
        )


@dataclass
class LocationEvaluator:
    """Measures detected points, each class and range of sizes for itself.

    A detection is at the middle pixel of its box, ``x + (w - 1) / 2``, as an object is; only boxes' middles count. It
    is right if it is within ``tau`` of a free object, in units of the object's width and height, better scores first.
    Equal scores: the nearest pair first inside an image; the lower image id first in the ranking of all images.

    Args:
        taus: distances; 1 is the headline.
        size_ranges: by name, see :data:`TINY_RANGES`. Objects outside a range are neutral in it.
        max_dets: the best detections of an image and class that count; dense images need 1000.
        ignore_flags: fields of annotations that make them neutral. The authors' evaluation honours ``iscrowd`` only,
            although TinyPerson's rules speak of ``ignore`` and ``uncertain``: add these for the documented rule.
        multi_match_neutral: detections near an object that a better one has matched are neutral, not wrong.
        multi_match_tau: the distance of these; default: that of the condition.
        without_objects: ``"official"``: a class without objects in a range has AP and AR 1 if nothing is detected
            there, else 0, and counts in the mean. ``"skip"``: it is -1 and left out of the mean.

    Raises:
        InputError: no or not positive ``taus`` or ``max_dets``, or an empty range.
    """

    taus: Sequence[float] = (0.5, 1.0, 2.0)
    size_ranges: SizeRanges = field(default_factory=lambda: dict(TINY_RANGES))
    max_dets: Sequence[int] = (200,)
    ignore_flags: Sequence[str] = ("iscrowd",)
    multi_match_neutral: bool = False
    multi_match_tau: float | None = None
    without_objects: Literal["official", "skip"] = "official"

    def __post_init__(self) -> None:
        self.max_dets = [self.max_dets] if isinstance(self.max_dets, int) else list(self.max_dets)
        for name in ("taus", "max_dets"):
            values = list(getattr(self, name))
            if not values or len(set(values)) < len(values) or not all(0 < value < np.inf for value in values):
                raise InputError(f"{values} are no different positive numbers", name, "give some, as [0.5, 1, 2]")
        for name, (least, greatest) in self.size_ranges.items():
            if not least < greatest:
                raise InputError(f"{name}: no size is in [{least}, {greatest})", "size_ranges", "give rising numbers")
        if self.without_objects not in ("official", "skip"):
            raise InputError(f"{self.without_objects!r} is unknown", "without_objects", "use official or skip")
        self._predictions: list[Mapping[str, Any]] = []
        self._targets: list[Mapping[str, Any]] = []

    @property
    def conditions(self) -> list[Condition]:
        """Of the numbers; the distance varies fastest, then the size."""
        return [Condition(tau, size, n) for n, size, tau in product(self.max_dets, self.size_ranges, self.taus)]

    def update(self, predictions: Iterable[Mapping[str, Any]], targets: Iterable[Mapping[str, Any]]) -> None:
        """Take in some images.

        Args:
            predictions: of each image ``boxes`` ``(n, 4)`` xyxy, ``scores`` and ``labels`` ``(n,)``; tensors on the CPU
                or arrays.
            targets: of each image ``image_id``, ``boxes`` ``(m, 4)`` xyxy, ``labels`` ``(m,)``, and those of
                ``ignore_flags`` that are known, ``(m,)``.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            self._predictions.append({**prediction, "image_id": int(target["image_id"])})
            self._targets.append(target)

    def compute(self, classes: Sequence[str]) -> dict[str, Any]:
        """What :meth:`evaluate` gives, of all images that were taken in.

        Args:
            classes: names by label.
        """
        ids, labels, boxes, neutral = [], [], [np.zeros((0, 4))], []
        for target in self._targets:
            count = len(target["labels"])
            ids.append(np.full(count, int(target["image_id"])))
            labels.append(np.asarray(target["labels"], np.int64))
            boxes.append(np.asarray(target["boxes"], np.float64).reshape(-1, 4))
            flags = [np.asarray(target[flag], np.bool_) for flag in self.ignore_flags if flag in target]
            neutral.append(np.any([np.zeros(count, np.bool_), *flags], axis=0))
        nothing = np.zeros(0, np.int64)
        objects = Objects(
            np.concatenate([nothing, *ids]),
            np.concatenate([nothing, *labels]),
            np.concatenate(boxes),
            np.concatenate([nothing > 0, *neutral]),
        )
        detections = Detections.from_predictions(self._predictions, range(len(classes)))
        return self.measure(objects, detections, dict(enumerate(classes)))

    def evaluate(self, truth: Mapping[str, Any], detections: Detections) -> dict[str, Any]:
        """Measure the detections of a whole data set.

        Args:
            truth: COCO dict: ``images``, ``annotations`` and ``categories``.
            detections: in pixels of these images.

        Returns:
            ``AP@1``, ``AR@0.5``, ``AP_tiny@1`` and so on, fractions in [0, 1], means over all classes (with several
            ``max_dets``: ``AP@1/200``); and ``per_class``: the same by class name.

        Raises:
            InputError: detections of an image or category that is not listed.
        """
        names = {int(category["id"]): str(category["name"]) for category in truth["categories"]}
        images = np.array([image["id"] for image in truth["images"]], np.int64)
        for given, known, what in (
            (detections.image_ids, images, "image"),
            (detections.classes, list(names), "category"),
        ):
            unknown = given[~np.isin(given, known)]
            if len(unknown):
                what = f"{len(unknown)} are of no {what} that is listed, the first of {what} {unknown[0]}"
                raise InputError(what, "detections", "give the annotation file that belongs to them")
        return self.measure(Objects.from_coco(truth["annotations"], self.ignore_flags), detections, names)

    def measure(self, objects: Objects, detections: Detections, names: Mapping[int, str]) -> dict[str, Any]:
        """As :meth:`evaluate`, of the classes ``names``: category id to name."""
        conditions = self.conditions
        labels = [self._name(condition) for condition in conditions]
        values = np.array([self._values(curves) for _, curves in self.curves(objects, detections, names)])
        values = values.reshape(len(names), len(conditions), 2)
        counted = values > _NOWHERE
        total = np.where(counted, values, 0).sum(0)
        means = np.where(counted.any(0), total / np.maximum(counted.sum(0), 1), _NOWHERE)

        def row(numbers: np.ndarray) -> dict[str, float]:
            return {
                f"{kind}{label}": float(value)
                for k, kind in enumerate(("AP", "AR"))
                for label, value in zip(labels, numbers[:, k])
            }

        return {**row(means), "per_class": {name: row(of) for name, of in zip(names.values(), values)}}

    def curves(
        self, objects: Objects, detections: Detections, classes: Iterable[int]
    ) -> Iterator[tuple[int, list[Curve]]]:
        """The curves of each class, in the order of :attr:`conditions`."""
        centres = _centres(objects.boxes)
        points = _centres(detections.boxes)[:, :2]
        for number in classes:
            mine, theirs = np.flatnonzero(objects.classes == number), np.flatnonzero(detections.classes == number)
            mine = mine[np.argsort(objects.image_ids[mine], kind="stable")]
            theirs = theirs[np.lexsort((-detections.scores[theirs], detections.image_ids[theirs]))]
            images = detections.image_ids[theirs]
            rank = np.arange(len(theirs)) - np.searchsorted(images, images)
            theirs, rank = theirs[rank < max(self.max_dets)], rank[rank < max(self.max_dets)]
            one = _OneClass(
                centres[mine],
                objects.image_ids[mine],
                objects.neutral[mine],
                points[theirs],
                detections.image_ids[theirs],
                detections.scores[theirs],
                rank,
            )
            conditions = self.conditions
            parts = [conditions[i : i + CONDITIONS] for i in range(0, len(conditions), CONDITIONS)]
            yield number, [curve for part in parts for curve in self._curves_of(one, part)]

    def _curves_of(self, one: _OneClass, conditions: Sequence[Condition]) -> Iterator[Curve]:
        """The curves of one class under up to 64 conditions."""

        def bits(chosen: Iterable[bool]) -> np.uint64:
            return np.uint64(sum(1 << k for k, yes in enumerate(chosen) if yes))

        size = np.sqrt(one.objects[:, 2] * one.objects[:, 3])
        regular = np.zeros(len(size), np.uint64)
        for name, (least, greatest) in self.size_ranges.items():
            inside = (size >= least) & (size < greatest) & ~one.neutral
            regular[inside] |= bits(condition.size == name for condition in conditions)
        counted = np.zeros(len(one.rank), np.uint64)
        for most in self.max_dets:
            counted[one.rank < most] |= bits(condition.max_dets == most for condition in conditions)

        multi_tau = self.multi_match_tau if self.multi_match_neutral else None
        pairs = one.near_pairs(max([*self.taus, *([] if multi_tau is None else [multi_tau])]))
        near = np.zeros(len(pairs.nearness), np.uint64)
        for tau in self.taus:
            near[pairs.nearness >= threshold(tau)] |= bits(condition.tau == tau for condition in conditions)
        near &= counted[pairs.detections]
        looked, matched = scan(pairs, one.images, score_groups(one.scores, one.images), near, regular)
        right, neutral = (np.zeros(len(one.rank), np.uint64) for _ in range(2))
        np.bitwise_or.at(right, pairs.detections[looked], matched)
        wanted = regular[pairs.objects]
        absorbed = near & ~wanted
        if self.multi_match_neutral:
            reached = near if multi_tau is None else np.where(pairs.nearness >= threshold(multi_tau), ~np.uint64(0), 0)
            absorbed |= reached & wanted
        np.bitwise_or.at(neutral, pairs.detections, absorbed)

        ranking = np.argsort(-one.scores, kind="stable")
        right, shown = right[ranking], (counted & (right | ~neutral))[ranking]
        for k in range(len(conditions)):
            bit = np.uint64(1 << k)
            total = int(np.count_nonzero(regular & bit))
            yield _curve((right & bit) != 0, (shown & bit) != 0, total)

    def _values(self, curves: Sequence[Curve]) -> list[tuple[float, float]]:
        skip = self.without_objects == "skip"
        return [
            (_NOWHERE, _NOWHERE) if skip and not c.objects else (c.average_precision, c.best_recall) for c in curves
        ]

    def _name(self, condition: Condition) -> str:
        size = "" if condition.size == "all" else f"_{condition.size}"
        return f"{size}@{condition.tau:g}" + (f"/{condition.max_dets}" if len(self.max_dets) > 1 else "")


@dataclass(frozen=True)
class _OneClass:
    """Objects and detections of a class, by image; detections of an image best first."""

    objects: np.ndarray
    object_images: np.ndarray
    neutral: np.ndarray
    points: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    rank: np.ndarray

    def near_pairs(self, tau: float) -> Pairs:
        """Of all images, with positions in these arrays."""
        shared = np.intersect1d(self.images, self.object_images)
        ends = [
            np.searchsorted(of, shared, side).tolist() for of in (self.images, self.object_images) for side in _SIDES
        ]
        nothing = np.zeros(0, np.int64)
        found = [(nothing, nothing, np.zeros(0, np.float32))]
        for a, b, c, d in zip(*ends):
            pairs = near_pairs(self.points[a:b], self.objects[c:d], tau)
            found.append((pairs.detections + a, pairs.objects + c, pairs.nearness))
        return Pairs(*(np.concatenate(part) for part in zip(*found)))


def evaluate_locations(truth: Mapping[str, Any], detections: Detections, **options: Any) -> dict[str, Any]:
    """Average precision and recall of detected points: :meth:`LocationEvaluator.evaluate` with these ``options``."""
    return LocationEvaluator(**options).evaluate(truth, detections)


def crowded_images(truth: Mapping[str, Any], max_dets: int) -> list[int]:
    """The ids of images with more objects of a class than detections that count: not all of these can be found."""
    pairs = np.array([(row["image_id"], row["category_id"]) for row in truth["annotations"]], np.int64).reshape(-1, 2)
    groups, counts = np.unique(pairs, axis=0, return_counts=True)
    return sorted(set(groups[counts > max_dets, 0].tolist()))


def _centres(boxes: np.ndarray) -> np.ndarray:
    """float32 ``(n, 4)``: middle pixel x, y, width and height of boxes xyxy."""
    sides = to_xywh(boxes)
    sides[:, :2] += (sides[:, 2:] - 1) / 2
    return sides.astype(np.float32)


def _curve(right: np.ndarray, shown: np.ndarray, objects: int) -> Curve:
    """Precision by recall of detections in the order of their scores, of which those ``shown`` count."""
    rank = np.cumsum(shown)
    if not len(rank) or not rank[-1]:
        return Curve(np.zeros(0), np.zeros(0), objects)
    hits = np.flatnonzero(right)
    precision = np.arange(1, len(hits) + 1) / rank[hits]
    recall = np.arange(1, len(hits) + 1) / (objects + 1e-12)
    if not right[np.argmax(shown)]:  # the first is wrong: recall 0 is reached, at precision 0
        precision, recall = np.append(0.0, precision), np.append(0.0, recall)
    return Curve(recall, precision, objects)
