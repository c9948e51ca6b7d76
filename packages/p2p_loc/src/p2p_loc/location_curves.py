"""Curves of precision by recall of points, under many conditions at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .annotations import Detections, to_xywh, to_xyxy
from .matching import CONDITIONS, Pairs, condition_bits, near_pairs, scan, score_groups, shared_images
from .matching import threshold as nearness_at

SizeRanges = Mapping[str, tuple[float, float]]

_RECALLS = np.linspace(0, 1, 101)


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
        flags = [np.array([bool(row.get(flag)) for row in rows], np.bool_) for flag in ignore_flags]
        return cls(
            np.array([row["image_id"] for row in rows], np.int64),
            np.array([row["category_id"] for row in rows], np.int64),
            to_xyxy([row["bbox"] for row in rows]),
            np.any([np.zeros(len(rows), np.bool_), *flags], axis=0),
        )


class OneClass(NamedTuple):
    """The objects and detections of one class.

    Attributes:
        number: the category id.
        objects: int64 ``(m,)``: which of all objects, by image.
        detections: int64 ``(n,)``: which of all detections, by image, those of an image best first.
        rank: int64 ``(n,)``: of a detection in its image.
    """

    number: int
    objects: np.ndarray
    detections: np.ndarray
    rank: np.ndarray


def by_class(objects: Objects, detections: Detections, classes: Iterable[int], max_dets: int) -> Iterator[OneClass]:
    """Objects and detections of each class, at most the ``max_dets`` best detections of an image."""
    given = np.lexsort((objects.image_ids, objects.classes))
    found = np.lexsort((-detections.scores, detections.image_ids, detections.classes))
    for number in classes:
        mine, theirs = (
            order[slice(*np.searchsorted(of.classes[order], [number, number + 1]))]
            for of, order in ((objects, given), (detections, found))
        )
        images = detections.image_ids[theirs]
        rank = np.arange(len(theirs)) - np.searchsorted(images, images)
        yield OneClass(number, mine, theirs[rank < max_dets], rank[rank < max_dets])


def location_curves(
    objects: Objects,
    detections: Detections,
    classes: Iterable[int],
    conditions: Sequence[Condition],
    size_ranges: SizeRanges,
    multi_match_neutral: bool = False,
    multi_match_tau: float | None = None,
) -> Iterator[list[Curve]]:
    """The curves of each class under each condition; see :class:`~p2p_loc.location.LocationEvaluator`."""
    centres, points = middle_pixels(objects.boxes), middle_pixels(detections.boxes)[:, :2]
    for one in by_class(objects, detections, classes, max(condition.max_dets for condition in conditions)):
        scene = _Scene(
            centres[one.objects],
            objects.image_ids[one.objects],
            objects.neutral[one.objects],
            points[one.detections],
            detections.image_ids[one.detections],
            detections.scores[one.detections],
            one.rank,
        )
        curves: list[Curve] = []
        for begin in range(0, len(conditions), CONDITIONS):
            part = conditions[begin : begin + CONDITIONS]
            curves += scene.curves(part, size_ranges, multi_match_neutral, multi_match_tau)
        yield curves


class _Scene(NamedTuple):
    """Objects ``(m, 4)`` (centre, width, height) and detected points ``(n, 2)`` of a class, as in :class:`OneClass`."""

    objects: np.ndarray
    object_images: np.ndarray
    neutral: np.ndarray
    points: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    rank: np.ndarray

    def curves(
        self, conditions: Sequence[Condition], size_ranges: SizeRanges, multi_neutral: bool, multi_tau: float | None
    ) -> list[Curve]:
        """Under up to 64 conditions."""
        size = np.sqrt(self.objects[:, 2] * self.objects[:, 3])
        regular = np.zeros(len(size), np.uint64)
        for name, (least, greatest) in size_ranges.items():
            inside = (size >= least) & (size < greatest) & ~self.neutral
            regular[inside] |= condition_bits(condition.size == name for condition in conditions)
        counted = np.zeros(len(self.rank), np.uint64)
        for most in {condition.max_dets for condition in conditions}:
            counted[self.rank < most] |= condition_bits(condition.max_dets == most for condition in conditions)

        taus = {condition.tau for condition in conditions}
        pairs = self.near_pairs(max(taus | ({multi_tau} if multi_neutral and multi_tau is not None else set())))
        near = np.zeros(len(pairs.nearness), np.uint64)
        for tau in taus:
            near[pairs.nearness >= nearness_at(tau)] |= condition_bits(condition.tau == tau for condition in conditions)
        near &= counted[pairs.detections]
        looked, matched = scan(pairs, self.images, score_groups(self.scores, self.images), near, regular)
        right, neutral = (np.zeros(len(self.rank), np.uint64) for _ in range(2))
        np.bitwise_or.at(right, pairs.detections[looked], matched)
        wanted = regular[pairs.objects]
        absorbed = near & ~wanted
        if multi_neutral:
            if multi_tau is not None:
                near = np.where(pairs.nearness >= nearness_at(multi_tau), ~np.uint64(0), np.uint64(0))
            absorbed |= near & wanted
        np.bitwise_or.at(neutral, pairs.detections, absorbed)

        ranking = np.argsort(-self.scores, kind="stable")
        right, shown = right[ranking], (counted & (right | ~neutral))[ranking]
        bits = [np.uint64(1 << k) for k in range(len(conditions))]
        return [_curve((right & bit) != 0, (shown & bit) != 0, int(np.count_nonzero(regular & bit))) for bit in bits]

    def near_pairs(self, tau: float) -> Pairs:
        """Of all images, with positions in these arrays."""
        nothing = np.zeros(0, np.int64)
        found = [(nothing, nothing, np.zeros(0, np.float32))]
        for a, b, c, d in shared_images(self.images, self.object_images):
            pairs = near_pairs(self.points[a:b], self.objects[c:d], tau)
            found.append((pairs.detections + a, pairs.objects + c, pairs.nearness))
        return Pairs(*(np.concatenate(part) for part in zip(*found)))


def middle_pixels(boxes: np.ndarray) -> np.ndarray:
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
