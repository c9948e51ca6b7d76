"""Coarse points: one point anywhere on each object, as a simulated annotator would click it.

The streams are those of the authors' tools: the same seed of numpy's legacy generator gives the same points. Boxes are
float64 xywh in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from vireo.errors import InputError

Distribution = Literal["uniform", "rg", "fixed", "center_gaussian"]


class Generator(Protocol):
    """What is drawn from: :class:`numpy.random.RandomState`, or recorded draws."""

    def rand(self, *shape: int) -> Any: ...

    def randn(self, *shape: int) -> Any: ...

    def uniform(self, low: float, high: float, size: Any) -> Any: ...


class _Recorded:
    """Draws played back in the order in which they were made."""

    def __init__(self, draws: Any) -> None:
        self.draws, self.used = np.asarray(draws, np.float64).ravel(), 0

    def rand(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        chosen = self.draws[self.used : self.used + count]
        if len(chosen) < count:
            raise InputError("there are fewer draws than are needed", "draws", "record all of them")
        self.used += count
        return chosen.reshape(shape)

    randn = rand

    def uniform(self, low: float, high: float, size: Any) -> np.ndarray:
        return self.rand(*size)


def coarse_points(
    boxes: Any,
    dist: Distribution = "uniform",
    *,
    mu: float = 0.0,
    sigma: float = 0.25,
    size_range: float = 1.0,
    at: tuple[float, float] = (0.5, 0.5),
    masks: Sequence[Any] | None = None,
    rng: Generator | None = None,
    draws: Any | None = None,
) -> np.ndarray:
    """One point in each box, drawn about its centre.

    An offset in [-0.5, 0.5) of the box's sides is drawn for each object:

    ``uniform``
        anywhere in the box.
    ``rg``
        rectified Gaussian RG(mu, sigma): a normal distribution of which only values in [-0.5, 0.5) are taken.
    ``fixed``
        the point ``at``, as fractions of the box; (0.5, 0.5) is supervision by centres.
    ``center_gaussian``
        with masks only: as ``rg``, and within an ellipse about the centre (the later quasi-centre protocol).

    Args:
        boxes: ``(N, 4)`` xywh.
        dist: see above.
        mu, sigma: of ``rg`` and ``center_gaussian``, as fractions of the sides.
        size_range: share of the box that offsets extend over; with masks, of the ellipse.
        at: of ``fixed``.
        masks: COCO segmentations by object (polygons, run lengths, or None): points then lie on the object; see
            :func:`p2p_loc.mask_points.mask_points`. Not for ``fixed``.
        rng: generator, whose state advances. Default: a new ``RandomState(0)``.
        draws: recorded draws that take the place of ``rng``.

    Returns:
        ``(N, 2)`` x and y in pixels.

    Raises:
        InputError: an unknown distribution, numbers out of range, or boxes that are not finite.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise InputError("a box is not finite", "coarse_points", "remove it")
    check_settings(dist, mu, sigma, size_range, at, masks is not None)
    source: Generator = _Recorded(draws) if draws is not None else np.random.RandomState(0) if rng is None else rng
    if masks is not None:
        from .mask_points import mask_points

        return mask_points(boxes, masks, dist, mu=mu, sigma=sigma, size_range=size_range, rng=source)
    if dist == "fixed":
        return boxes[:, :2] + boxes[:, 2:] * np.asarray(at, np.float64)
    if dist == "rg":
        offsets = _rectified_gaussian(2 * len(boxes), mu, sigma, source).reshape(-1, 2)
    else:
        offsets = source.rand(len(boxes), 2) - 0.5
    return boxes[:, :2] + boxes[:, 2:] / 2 + offsets * size_range * boxes[:, 2:]


def check_settings(dist: str, mu: float, sigma: float, size_range: float, at: Sequence[float], masks: bool) -> None:
    """Refuse settings of :func:`coarse_points` that make no sense.

    Raises:
        InputError: the first of them.
    """
    choices = ("uniform", "rg", "center_gaussian") if masks else ("uniform", "rg", "fixed")
    if dist not in choices:
        known = "with masks" if masks else "without masks"
        raise InputError(f"{dist!r} is no distribution {known}", "points.dist", f"use one of {', '.join(choices)}")
    if not (sigma > 0 and np.isfinite(sigma)):
        raise InputError(f"{sigma} is not positive", "points.sigma", "give a share of the box's side, such as 0.25")
    if not -0.5 - 4 * sigma < mu < 0.5 + 4 * sigma:  # else rejection would hardly ever end
        raise InputError(f"{mu} is too far from the box", "points.mu", "give a share of the box's side, such as 0")
    if not 0 < size_range <= 1:
        raise InputError(f"{size_range} is not in (0, 1]", "points.size_range", "use 1 for the whole box")
    if len(at) != 2 or not all(0 <= value <= 1 for value in at):
        raise InputError(f"{list(at)} is no point of a box", "points.at", "give two fractions, such as 0.5 0.5")


def _rectified_gaussian(count: int, mu: float, sigma: float, source: Generator) -> np.ndarray:
    """``(count,)`` normal numbers in [-0.5, 0.5); each pass draws twice as many as are still missing."""
    taken = np.zeros(0)
    while len(taken) < count:
        drawn = source.randn(2 * (count - len(taken))) * sigma + mu
        taken = np.concatenate([taken, drawn[(drawn >= -0.5) & (drawn < 0.5)]])
    return taken[:count]


def fully_supervised(full: Any, ratio: float, rng: np.random.RandomState) -> np.ndarray:
    """Semi-supervised training: a share of the objects keeps its true box as label.

    Args:
        full: bool ``(N,)``, objects that have their true box already; or N.
        ratio: share in [0, 1] of all objects.
        rng: shuffles the list of objects.

    Returns:
        bool ``(N,)``: those of ``full``, and from the shuffled list as many of the first as are missing.

    Raises:
        InputError: ``ratio`` is no share.
    """
    if not 0 <= ratio <= 1:
        raise InputError(f"{ratio} is not in [0, 1]", "fully_ratio", "give the share of objects with true boxes")
    chosen = np.zeros(full, np.bool_) if isinstance(full, int) else np.array(full, np.bool_)
    missing = round(ratio * len(chosen)) - int(chosen.sum())
    order = np.arange(len(chosen))
    rng.shuffle(order)
    chosen[order[: max(missing, 0)]] = True
    return chosen
