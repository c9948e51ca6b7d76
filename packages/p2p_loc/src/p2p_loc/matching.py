"""Matching of detected points to objects by their distance in units of the object's size.

The nearness of a point to an object is ``V = 1 / (1 + d^2)`` with ``d^2 = (dx / w)^2 + (dy / h)^2``; within a distance
of tau it is at least ``1 / (1 + tau^2)``. Detections are taken in the order of their scores. Those of one score (up to
1e-8) form a group, inside which the nearest pair is matched first; every object is matched once.

That rule is one scan over the pairs that are near enough, sorted by group, nearness and position: a pair is taken if
both its detection and its object are free. The order is the same under all conditions (distances, ranges of sizes,
numbers of detections), so a condition is a bit, and one scan serves up to 64 of them, over all images at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

SAME_SCORE = 1e-8  # scores that differ by less from the first of their group are equal
CONDITIONS = 64  # of one scan: bits of a number
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


class Pairs(NamedTuple):
    """P pairs of a detection and an object near it, of all images.

    Attributes:
        detections, objects: int64 ``(P,)``, positions.
        nearness: float32 ``(P,)``, V in (0, 1].
    """

    detections: np.ndarray
    objects: np.ndarray
    nearness: np.ndarray


def threshold(tau: float) -> np.float32:
    """The nearness of points at the distance ``tau``; single precision, as the nearness is."""
    return np.float32(1 / (1 + tau * tau))


def near_pairs(points: np.ndarray, objects: np.ndarray, tau: float) -> Pairs:
    """The pairs of one image whose distance is at most ``tau``, in row-major order.

    Args:
        points: float32 ``(n, 2)``.
        objects: float32 ``(m, 4)``: centre x, y, width and height.
        tau: in units of the object's size.
    """
    dx, dy = (np.subtract.outer(points[:, axis], objects[:, axis]) for axis in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing is near an object without a size
        dx /= objects[:, 2]
        dy /= objects[:, 3]
    dx *= dx
    dy *= dy
    dx += dy
    dx += 1
    place = np.flatnonzero(dx <= np.float32((1 + tau * tau) * (1 + 1e-6)))  # a superset: V is rounded again
    nearness = 1 / dx.ravel()[place]
    kept = nearness >= threshold(tau)
    row, column = np.divmod(place[kept], max(len(objects), 1))
    return Pairs(row, column, nearness[kept])


def shared_images(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Where the images of both of two rising lists lie: from and to in the one, from and to in the other."""
    shared = np.intersect1d(one, other)
    ends = [np.searchsorted(of, shared, side).tolist() for of in (one, other) for side in _SIDES]
    return list(zip(*ends))


def condition_bits(chosen: Iterable[bool]) -> np.uint64:
    """The number that has a one at each condition that is chosen."""
    return np.uint64(sum(1 << k for k, yes in enumerate(chosen) if yes))


def score_groups(scores: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The number of the group of equal scores that each detection is in, rising along the list.

    Args:
        scores: ``(n,)``, falling inside an image.
        images: ``(n,)``, rising; a group is of one image.
    """
    scores = np.asarray(scores, np.float64)
    first = np.ones(len(scores), np.bool_)
    first[1:] = (np.diff(images) != 0) | (scores[:-1] - scores[1:] >= SAME_SCORE)
    while True:  # chains of small steps: a group ends where its first score is left, which may take further groups
        start = np.maximum.accumulate(np.where(first, np.arange(len(scores)), 0))
        late = scores[start] - scores >= SAME_SCORE
        if not late.any():
            return np.cumsum(first) - 1
        _, place = np.unique(start[late], return_index=True)
        first[np.flatnonzero(late)[place]] = True


def scan(
    pairs: Pairs,
    images: np.ndarray,
    groups: np.ndarray,
    passes: np.ndarray,
    free: np.ndarray,
    waiting: np.ndarray | None = None,
    reusable: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Match under up to 64 conditions at once.

    Args:
        pairs: of all images; of equally near ones in a group, the first is taken first.
        images: int64 ``(n,)``, rising: that of each detection.
        groups: int64 ``(n,)``, rising: detections that are matched together, see :func:`score_groups`.
        passes: uint64 ``(P,)``: the conditions under which a pair may be matched.
        free: uint64 ``(m,)``: the conditions under which an object may be matched.
        waiting: uint64 ``(n,)``: those under which a detection may be; default: all.
        reusable: bool ``(m,)``: objects that can be matched many times; default: none.

    Returns:
        The order in which the pairs were looked at, ``(P,)``, and uint64 ``(P,)``, along that order: the conditions
        under which each was matched.
    """
    order = np.lexsort((-pairs.nearness, groups[pairs.detections]))  # stable
    image = images[pairs.detections[order]]
    step = np.arange(len(order)) - np.searchsorted(image, image)  # a pair's place in its image
    order = order[np.argsort(step, kind="stable")]
    detections, objects, passes = pairs.detections[order], pairs.objects[order], passes[order]
    waiting = np.full(len(images), ~np.uint64(0)) if waiting is None else waiting.copy()
    used_up = np.where(np.zeros(len(free), np.bool_) if reusable is None else reusable, np.uint64(0), ~np.uint64(0))
    free = free.copy()
    matched = np.zeros(len(order), np.uint64)
    begin = 0
    for end in np.cumsum(np.bincount(step)).tolist():  # the k-th pair of every image
        d, o = detections[begin:end], objects[begin:end]
        taken = passes[begin:end] & waiting[d] & free[o]
        waiting[d] ^= taken
        free[o] ^= taken & used_up[o]
        matched[begin:end] = taken
        begin = end
    return order, matched


def match_points(
    detections: Any,
    scores: Any,
    objects: Any,
    ignored: Any,
    tau: float = 1.0,
    *,
    multi_match_neutral: bool = False,
    multi_match_tau: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Match the detections of one image, as the authors' evaluation does.

    Args:
        detections: ``(n, 2)``, x and y.
        scores: ``(n,)``, in any order; equal ones keep theirs.
        objects: ``(m, 4)``: centre x, y, width, height of the objects to be found.
        ignored: ``(k, 4)``: objects that need not be found; a detection near one is neither right nor wrong.
        tau: greatest distance in units of the object's size.
        multi_match_neutral: unmatched detections near any object to be found are neutral too. One within ``tau`` has
            always been matched by another; with a greater ``multi_match_tau`` it need not be.
        multi_match_tau: the distance of these; default ``tau``.

    Returns:
        int64 ``(n,)``: the object matched, ``m + i`` for the ignored object ``i``, -1 for none; and bool ``(n,)``: the
        detection is neutral.
    """
    points, given, others = (np.asarray(a, np.float32) for a in (detections, objects, ignored))
    points, given, others = points.reshape(-1, 2), given.reshape(-1, 4), others.reshape(-1, 4)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    image, count = np.zeros(len(order), np.int64), len(given)
    pairs = near_pairs(points[order], given, tau)
    groups = score_groups(np.asarray(scores, np.float64)[order], image)
    every = np.ones(len(pairs.nearness), np.uint64)
    looked, matched = scan(pairs, image, groups, every, np.ones(count, np.uint64))
    found = np.full(len(order), -1)
    taken = looked[matched > 0]
    found[pairs.detections[taken]] = pairs.objects[taken]
    neutral = np.zeros(len(order), np.bool_)
    for where, near, first in (
        (others, tau, count),
        (given, tau if multi_match_tau is None else multi_match_tau, 0),
    )[: 1 + multi_match_neutral]:
        candidates = near_pairs(points[order], where, near)
        best = np.lexsort((-candidates.nearness, candidates.detections))
        detection, place = np.unique(candidates.detections[best], return_index=True)
        unmatched = found[detection] < 0
        found[detection[unmatched]] = first + candidates.objects[best][place][unmatched]
        neutral[detection[unmatched]] = True
    result, state = np.empty_like(found), np.empty_like(neutral)
    result[order], state[order] = found, neutral
    return result, state
