"""The location metric: average precision and recall of points, by distance, by size of the objects.

Section 5 of the specification, and the authors' evaluation where it leaves a choice. What differs from common sense is
kept by default, so that numbers compare with theirs; the arguments of :class:`LocationEvaluator` undo it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np

from vireo.errors import InputError

from .annotations import Detections
from .location_curves import Condition, Curve, Objects, SizeRanges, location_curves

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

NO_OBJECTS = -1.0  # AP and AR of a class without objects in a range, where it is left out of the mean


@dataclass
class LocationEvaluator:
    """Measures detected points, each class and range of sizes for itself.

    A detection is at the middle pixel of its box, ``x + (w - 1) / 2``, as an object is; only boxes' middles count. It
    is right if it is within ``tau`` of a free object, in units of the object's width and height, better scores first.
    Equal scores: the nearest pair first inside an image; the lower image id first in the ranking of all images.
    Recall is ``hits / (objects + 1e-12)``, as in the authors' code: without any mistake AP is 100/101.

    Args:
        taus: distances; 1 is the headline.
        size_ranges: by name, see :data:`TINY_RANGES`. Objects outside a range are neutral in it.
        max_dets: the best detections of an image and class that count, one number or several; dense images need 1000.
        ignore_flags: fields of annotations that make them neutral. The authors' evaluation honours ``iscrowd`` only,
            although TinyPerson's rules speak of ``ignore`` and ``uncertain``: add these for the documented rule.
        multi_match_neutral: detections near an object, which a better one has matched, are neutral, not wrong.
        multi_match_tau: the distance of these; default: that of the condition. With a greater one, the object need not
            be matched.
        without_objects: ``"official"``: a class without objects in a range has AP and AR 1 if nothing is detected
            there, else 0, and counts in the mean. ``"skip"``: it is -1 and left out of the mean.

    Raises:
        InputError: values that make no sense: no or not positive ``taus`` or ``max_dets``, an empty range, a flag
            that is neither true nor false.
    """

    taus: Sequence[float] = (0.5, 1.0, 2.0)
    size_ranges: SizeRanges = field(default_factory=lambda: dict(TINY_RANGES))
    max_dets: Sequence[int] = (200,)
    ignore_flags: Sequence[str] = ("iscrowd",)
    multi_match_neutral: bool = False
    multi_match_tau: float | None = None
    without_objects: Literal["official", "skip"] = "official"

    def __post_init__(self) -> None:
        for name, kind in (("taus", float), ("max_dets", int)):
            given = getattr(self, name)
            try:
                values = [kind(value) for value in ([given] if isinstance(given, int | float) else given)]
            except (TypeError, ValueError):
                values = []
            if not values or len(set(values)) < len(values) or not all(0 < value < np.inf for value in values):
                raise InputError(f"{given!r} are no different positive numbers", name, "give some, as [0.5, 1, 2]")
            setattr(self, name, values)
        if isinstance(self.ignore_flags, str):
            raise InputError(f"{self.ignore_flags!r} is no list", "ignore_flags", "give a list, such as [iscrowd]")
        self.ignore_flags = [str(flag) for flag in self.ignore_flags]
        self.size_ranges = _ranges(self.size_ranges)
        if not isinstance(self.multi_match_neutral, bool):
            raise InputError(f"{self.multi_match_neutral!r} is unknown", "multi_match_neutral", "use true or false")
        tau = self.multi_match_tau
        if tau is not None and not (isinstance(tau, int | float) and 0 < tau < np.inf):
            raise InputError(f"{tau!r} is no positive number", "multi_match_tau", "give a distance, such as 1")
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

    def compute(self, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """What :meth:`evaluate` gives, of all images that were taken in.

        Args:
            classes: names by label; default: the numbers up to the greatest label.
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
        if classes is None:
            found = [np.asarray(prediction["labels"], np.int64) for prediction in self._predictions]
            classes = [str(k) for k in range(1 + max(np.concatenate([nothing, *labels, *found]).tolist(), default=-1))]
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
        values = [self._values(curves) for curves in self.curves(objects, detections, names)]
        return named_values(labels, values, list(names.values()))

    def curves(self, objects: Objects, detections: Detections, classes: Iterable[int]) -> Iterator[list[Curve]]:
        """The curves of each class, in the order of :attr:`conditions`."""
        multi = self.multi_match_neutral, self.multi_match_tau
        return location_curves(objects, detections, classes, self.conditions, self.size_ranges, *multi)

    def _values(self, curves: Sequence[Curve]) -> list[tuple[float, float]]:
        skip = self.without_objects == "skip"
        return [
            (NO_OBJECTS, NO_OBJECTS) if skip and not c.objects else (c.average_precision, c.best_recall) for c in curves
        ]

    def _name(self, condition: Condition) -> str:
        size = "" if condition.size == "all" else f"_{condition.size}"
        return f"{size}@{condition.tau:g}" + (f"/{condition.max_dets}" if len(self.max_dets) > 1 else "")


def evaluate_locations(truth: Mapping[str, Any], detections: Detections, **options: Any) -> dict[str, Any]:
    """Average precision and recall of detected points: :meth:`LocationEvaluator.evaluate` with these ``options``."""
    return LocationEvaluator(**options).evaluate(truth, detections)


def _ranges(given: Any) -> SizeRanges:
    """Checked ranges of sizes by name."""
    remedy = "give rising numbers by name, such as {all: [1, 1e5], small: [1, 32]}"
    try:
        ranges = {str(name): (float(least), float(greatest)) for name, (least, greatest) in given.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{given!r} are no ranges", "size_ranges", remedy) from None
    for name, (least, greatest) in ranges.items():
        if not least < greatest:
            raise InputError(f"{name}: no size is in [{least:g}, {greatest:g})", "size_ranges", remedy)
    if not ranges:
        raise InputError("there is no range", "size_ranges", remedy)
    return ranges


def named_values(
    labels: Sequence[str], values: Sequence[Sequence[tuple[float, float]]], classes: Sequence[str]
) -> dict[str, Any]:
    """AP and AR by name, the means over the classes that have a value, and those of each class as ``per_class``.

    Args:
        labels: of the conditions, what follows ``AP`` and ``AR``.
        values: by class and condition AP and AR, -1 for none.
        classes: their names.
    """
    table = np.array(values, np.float64).reshape(len(classes), len(labels), 2)
    known = table > NO_OBJECTS
    total = np.where(known, table, 0).sum(0)
    means = np.where(known.any(0), total / np.maximum(known.sum(0), 1), NO_OBJECTS)

    def row(numbers: np.ndarray) -> dict[str, float]:
        return {
            f"{kind}{name}": float(v)
            for kind, column in zip(("AP", "AR"), numbers.T)
            for name, v in zip(labels, column)
        }

    return {**row(means), "per_class": {name: row(numbers) for name, numbers in zip(classes, table)}}


def crowded_images(truth: Mapping[str, Any], max_dets: int) -> list[int]:
    """The ids of images with more objects of a class than detections that count: not all of these can be found."""
    pairs = np.array([(row["image_id"], row["category_id"]) for row in truth["annotations"]], np.int64).reshape(-1, 2)
    groups, counts = np.unique(pairs, axis=0, return_counts=True)
    return sorted(set(groups[counts > max_dets, 0].tolist()))


def ranges_without_objects(truth: Mapping[str, Any], evaluator: LocationEvaluator) -> list[str]:
    """The names of the ranges of sizes in which some class of the truth has no object that is to be found."""
    objects = Objects.from_coco(truth["annotations"], evaluator.ignore_flags)
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    sizes = np.where(objects.neutral, -1.0, np.sqrt(sides.prod(1)))
    classes = [category["id"] for category in truth["categories"]]
    return [
        name
        for name, (least, end) in evaluator.size_ranges.items()
        if not set(classes) <= set(objects.classes[(sizes >= least) & (sizes < end)].tolist())
    ]
