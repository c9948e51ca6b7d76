"""Better labels from the detections around each coarse point: one refinement step, a whole data set in one call.

Source: section 3 of the paper; order of the steps and tie rules of the authors' code. A detector that was trained on
the labels of arbitrary points has averaged their noise out, so its own detections on the training images, weighted by
their scores, say better than the point where the object is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from vireo.errors import InputError

Mode = Literal["weight_mean", "mean", "legacy_minmax", "legacy_center"]
Label = Literal["box", "point"]
GrowBy = Literal["width", "sides"]

PAIRS = 1 << 16  # detections times points that are looked at together: half a MiB an array, which caches hold


@dataclass(frozen=True)
class PointRefiner:
    """Refine the labels of coarse points by detections on the training images.

    For each image and class: every detection belongs to the annotated point nearest to its centre. Of those of a point,
    the ``topk`` best are looked at, those that reach too far from the point are dropped, and the others are averaged.
    A point that keeps none gets its initial box back, not that of the round before.

    Attributes:
        topk: detections of a point that are looked at, the best; at equal scores the first ones.
        max_grow: g; no edge of a detection may be g times the initial box's width, or more, away from the point.
        mode: ``weight_mean`` (edges averaged by score) or ``mean``. ``legacy_minmax`` (least x1, greatest y1, least
            x2, greatest y2) and ``legacy_center`` (hull of the centres; a single detection's own box) are what the
            authors' code makes of its modes ``minmax`` and ``center``: for comparisons with it only.
        include_point: extend the box until it contains the annotated point.
        label: ``box`` moves and resizes the label (the authors' code). ``point`` moves it only: a box as large as the
            initial one around the centre of the refined box.
        score_thr: scores must be above it. The authors' script has 0, so that the detector's own threshold (0.05)
            decides; 0.2 is the better choice where the network is sharp, from the second refinement on in any case.
        num_per_gt: only the best ``num_per_gt * n`` detections of an image and class with n points count; -1: all.
        require_point: drop detections that do not contain the point.
        grow_by: ``width``: g times the width limits both axes (the authors' code); ``sides``: the height limits y.

    Raises:
        InputError: a value out of range.
    """

    topk: int = 16
    max_grow: float = 1.75
    mode: Mode = "weight_mean"
    include_point: bool = True
    label: Label = "box"
    score_thr: float = 0.0
    num_per_gt: int = -1
    require_point: bool = False
    grow_by: GrowBy = "width"

    def __post_init__(self) -> None:
        for name, choices in (("mode", get_args(Mode)), ("label", get_args(Label)), ("grow_by", get_args(GrowBy))):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"unknown {name} {getattr(self, name)!r}", f"refine.{name}", f"use {', '.join(choices)}"
                )
        for name in ("include_point", "require_point"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{getattr(self, name)!r} is neither", f"refine.{name}", "use true or false")
        for name, kind in (("topk", int), ("num_per_gt", int), ("max_grow", int | float), ("score_thr", int | float)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{getattr(self, name)!r} is no such number", f"refine.{name}", "give a number")
        if not self.topk >= 1:
            raise InputError(f"{self.topk} detections of a point", "refine.topk", "use 1 or more, such as 16")
        if not (self.max_grow > 0 and math.isfinite(self.max_grow)):
            raise InputError(
                f"a growth limit of {self.max_grow}", "refine.max_grow", "use a positive one, such as 1.75"
            )
        if not 0 <= self.score_thr < 1:
            raise InputError(f"a score cut of {self.score_thr}", "refine.score_thr", "use one in [0, 1), such as 0.2")
        if not (self.num_per_gt == -1 or self.num_per_gt >= 1):
            raise InputError(f"a cap of {self.num_per_gt}", "refine.num_per_gt", "use 1 or more, or -1 for none")

    def __call__(
        self,
        points: Any,
        init_boxes: Any,
        classes: Any,
        det_boxes: Any,
        det_scores: Any,
        det_classes: Any,
        *,
        images: Any = None,
        det_images: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Refined labels, in the order of the points.

        Args:
            points: ``(N, 2)`` annotated points; arrays or tensors on the CPU, as all others.
            init_boxes: ``(N, 4)`` xyxy, the boxes the points began with.
            classes: ``(N,)``, any numbers that detections share.
            det_boxes: ``(M, 4)`` xyxy.
            det_scores: ``(M,)``.
            det_classes: ``(M,)``.
            images: ``(N,)`` image of each point, and ``det_images`` ``(M,)``; None: all are of one image.

        Returns:
            ``(N, 4)`` float64 xyxy, neither clipped nor rounded, and bool ``(N,)``: whether detections made the label.

        Raises:
            InputError: arrays whose lengths do not fit, or numbers that are not finite.
        """
        points, init_boxes = _floats(points, 2, "points"), _floats(init_boxes, 4, "init_boxes")
        boxes, scores = _floats(det_boxes, 4, "det_boxes"), _floats(det_scores, 1, "det_scores")[:, 0]
        if (images is None) != (det_images is None):
            raise InputError("given for one side only", "images, det_images", "give both, or none of them")
        if not (len(init_boxes) == len(points) and len(scores) == len(boxes)):
            raise InputError("are not as many", "points and init_boxes, det_boxes and det_scores", "give one for each")

        # an image and class with points is a group; detections of others belong to nobody
        group, det_group = _groups(
            _integers(np.zeros(len(points)) if images is None else images, len(points), "images"),
            _integers(classes, len(points), "classes"),
            _integers(np.zeros(len(boxes)) if det_images is None else det_images, len(boxes), "det_images"),
            _integers(det_classes, len(boxes), "det_classes"),
        )
        kept = np.flatnonzero((det_group >= 0) & (scores > self.score_thr))
        if self.num_per_gt > 0:
            most = self.num_per_gt * np.bincount(group)
            kept = kept[_best(det_group[kept], scores[kept], most)]
        boxes, scores = boxes[kept], scores[kept]

        owner = _nearest((boxes[:, :2] + boxes[:, 2:]) / 2, det_group[kept], points, group)
        chosen = _best(owner, scores, np.full(len(points), self.topk))
        chosen &= self._within_reach(boxes, points[owner], init_boxes[owner])
        boxes, scores, owner = boxes[chosen], scores[chosen], owner[chosen]

        moved = np.bincount(owner, minlength=len(points)) > 0
        refined = init_boxes.copy()
        refined[moved] = self._joined(boxes, scores, owner, len(points))[moved]
        if self.include_point:
            refined[moved, :2] = np.minimum(refined[moved, :2], points[moved])
            refined[moved, 2:] = np.maximum(refined[moved, 2:], points[moved])
        if self.label == "point":
            half = (init_boxes[moved, 2:] - init_boxes[moved, :2]) / 2
            centre = (refined[moved, :2] + refined[moved, 2:]) / 2
            refined[moved] = np.concatenate([centre - half, centre + half], axis=1)
        return refined, moved

    def _within_reach(self, boxes: np.ndarray, points: np.ndarray, init_boxes: np.ndarray) -> np.ndarray:
        sides = init_boxes[:, 2:] - init_boxes[:, :2]
        limit = self.max_grow * (sides if self.grow_by == "sides" else sides[:, :1])
        near = (np.abs(boxes[:, :2] - points) < limit) & (np.abs(boxes[:, 2:] - points) < limit)
        if self.require_point:
            near &= (boxes[:, :2] <= points) & (points <= boxes[:, 2:])
        return near.all(1)

    def _joined(self, boxes: np.ndarray, scores: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
        """One box ``(count, 4)`` for each owner; where there is none, anything."""
        if self.mode in ("weight_mean", "mean"):
            weight = scores if self.mode == "weight_mean" else np.ones_like(scores)
            total = np.bincount(owner, weight, count)
            sums = [np.bincount(owner, weight * boxes[:, edge], count) for edge in range(4)]
            with np.errstate(invalid="ignore"):
                return np.stack(sums, axis=1) / total[:, None]
        edges = boxes
        joins: tuple[np.ufunc, ...] = (np.minimum, np.maximum, np.minimum, np.maximum)
        if self.mode == "legacy_center":
            alone = np.bincount(owner, minlength=count)[owner] == 1  # a single detection keeps its box
            edges = np.where(alone[:, None], boxes, np.tile((boxes[:, :2] + boxes[:, 2:]) / 2, 2))
            joins = (np.minimum, np.minimum, np.maximum, np.maximum)
        joined = np.empty((count, 4))
        for edge, join in enumerate(joins):
            joined[:, edge] = np.inf if join is np.minimum else -np.inf
            join.at(joined[:, edge], owner, edges[:, edge])
        return joined


def _floats(values: Any, columns: int, name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.size % columns or (array.size and array.shape[-1] != columns and columns > 1):
        raise InputError(f"of shape {array.shape}", name, f"give {columns} numbers for each")
    if not np.isfinite(array).all():
        raise InputError("has numbers that are not finite", name, "remove these entries")
    return array.reshape(-1, columns)


def _integers(values: Any, count: int, name: str) -> np.ndarray:
    array = np.asarray(values, np.int64).reshape(-1)
    if len(array) != count:
        raise InputError(f"are {len(array)} for {count} boxes or points", name, "give one for each")
    return array


def _groups(
    images: np.ndarray, classes: np.ndarray, det_images: np.ndarray, det_classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number of the image and class of each point, from 0 without gaps, and of each detection; -1: of no point."""
    number, det_number = np.zeros(len(images), np.int64), np.zeros(len(det_images), np.int64)
    for own, other in ((images, det_images), (classes, det_classes)):
        known, position = np.unique(own, return_inverse=True)
        number = number * len(known) + position
        det_position = _position(other, known)
        det_number = np.where((det_number < 0) | (det_position < 0), -1, det_number * len(known) + det_position)
    known, group = np.unique(number, return_inverse=True)
    return group, _position(det_number, known)


def _position(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where each value is among the sorted ``known``; -1 where it is not."""
    if not len(known):
        return np.full(len(values), -1)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[place] == values, place, -1)


def _best(group: np.ndarray, scores: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Mask of the entries that are among the best ``most[group]`` of their group; at equal scores the first ones."""
    chosen = np.ones(len(group), np.bool_)
    crowded = np.flatnonzero((np.bincount(group, minlength=len(most)) > most)[group])
    order = crowded[np.lexsort((-scores[crowded], group[crowded]))]  # stable
    ordered = group[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    chosen[order] = rank < most[ordered]
    return chosen


def _nearest(centres: np.ndarray, det_group: np.ndarray, points: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The point of its group that is nearest to each centre, the first at ties.

    Args:
        centres: ``(M, 2)``.
        det_group: ``(M,)``.
        points: ``(N, 2)``.
        group: ``(N,)`` from 0 without gaps.
    """
    owner = np.empty(len(centres), np.int64)
    count = np.bincount(group)
    by_size = np.argsort(count, kind="stable")  # groups of like size are looked at together: little padding
    place = np.empty_like(by_size)
    place[by_size] = np.arange(len(by_size))
    members = np.argsort(place[group], kind="stable")  # points in that order
    count = count[by_size]
    starts = np.cumsum(count) - count
    det_place = place[det_group]
    order = np.argsort(det_place, kind="stable")
    det_place, centres = det_place[order], centres[order]
    begin = 0
    while begin < len(order):
        # as many detections as fit, with the widest of their groups as the width of all
        widths = count[det_place[begin : begin + max(1, PAIRS // count[det_place[begin]])]]
        fitting = np.searchsorted(widths * np.arange(1, len(widths) + 1), PAIRS, side="right")
        rows = slice(begin, begin + max(1, int(fitting)))
        begin = rows.stop
        here = det_place[rows]
        table = np.arange(here[0], here[-1] + 1)
        column = np.minimum(np.arange(count[here[-1]]), count[table][:, None] - 1)  # padded by a group's last point,
        member = members[starts[table][:, None] + column]  # which never comes first
        x, y = (points[member, axis][here - here[0]] for axis in (0, 1))
        x -= centres[rows, :1]
        y -= centres[rows, 1:]
        x *= x
        y *= y
        x += y
        owner[order[rows]] = member[here - here[0], x.argmin(1)]
    return owner
