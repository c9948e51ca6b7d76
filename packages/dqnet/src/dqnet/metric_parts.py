"""The field's scores of one saliency map against one mask (section 5.2 of the notes), from counts of grey levels.

All but the weighted F-measure depend on a map only through how many pixels of the foreground and of the background have
each of its 256 levels, in four parts of the image: they take one pass over the pixels. Equal to pysodmetrics 1.6.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .weighted_f import EPS, weighted_f

BETA_SQUARED = 0.3  # of the F-measure
THRESHOLD = 128  # masks are foreground above it


class ImageScores(NamedTuple):
    """Scores of one image; curves are float64 ``(256,)`` over thresholds from 255 down to 0."""

    Smeasure: float
    wFmeasure: float
    MAE: float
    adpEm: float
    adpFm: float
    IoU: float
    em_curve: np.ndarray
    fm_curve: np.ndarray


def image_scores(pred: np.ndarray, mask: np.ndarray) -> ImageScores:
    """Every score of a map, uint8 ``(H, W)``, against a mask, uint8 ``(H, W)`` with the foreground above 128.

    Levels are stretched to [0, 1] first, as the field does, except for ``IoU``: that of ``pred >= 128``, and 1 where
    neither has foreground. A mask without foreground has wF and F 0, and E and S by the share of background found.
    """
    pred = np.ascontiguousarray(pred)
    foreground = cv2.threshold(np.ascontiguousarray(mask), THRESHOLD, 1, cv2.THRESH_BINARY)[1]
    quarters = _quarters(foreground)
    # (4, 2, 256): background and foreground pixels of each level
    parts = np.stack([_counts(pred[quarter], foreground[quarter]) for quarter in quarters])
    counts = parts.sum(0)
    levels = stretched(counts.sum(0))
    size, number = counts.sum(), counts[1].sum()
    mae = (counts[0] @ levels + counts[1] @ (1 - levels)) / size
    bins = (levels * 255).astype(np.uint8)  # of the thresholds
    curve = np.zeros((2, 256))
    for part in (0, 1):
        curve[part] = np.bincount(bins, counts[part], 256)[::-1].cumsum()
    share = adaptive_threshold(counts, levels, pred)
    adaptive = counts[:, levels >= share].sum(1, keepdims=True)
    overlap, union = counts[1, 128:].sum(), counts[0, 128:].sum() + number
    return ImageScores(
        Smeasure=_structure(parts, levels, pred, quarters),
        wFmeasure=weighted_f(levels, pred, foreground),
        MAE=float(mae),
        adpEm=float(_enhanced_alignment(adaptive, number, size)[0]),
        adpFm=float(_f_measure(adaptive, number)[0]),
        IoU=float(overlap / union) if union else 1.0,
        em_curve=_enhanced_alignment(curve, number, size),
        fm_curve=_f_measure(curve, number),
    )


def stretched(counts: np.ndarray) -> np.ndarray:
    """What each of 256 levels stands for, in [0, 1]: the lowest that occurs for 0, the highest for 1."""
    levels = np.arange(256) / 255
    present = np.flatnonzero(counts)
    low, high = levels[present[0]], levels[present[-1]]
    return levels if low == high else ((levels - low) / (high - low)).clip(0, 1)


def adaptive_threshold(counts: np.ndarray, levels: np.ndarray, pred: np.ndarray) -> float:
    """Twice the mean of a map, at most 1."""
    threshold = 2 * (counts.sum(0) @ levels) / counts.sum()
    if np.isclose(levels, threshold, rtol=0, atol=1e-12).any():  # rounding decides, so sum in the usual order
        threshold = 2 * levels[pred].mean()
    return min(float(threshold), 1.0)


def _quarters(foreground: np.ndarray) -> list[tuple[slice, slice]]:
    """The image cut in four, one place behind the foreground's centroid; without foreground, in the middle."""
    cuts = []
    for axis in (1, 0):
        sums = cv2.reduce(foreground, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
        number, length = sums.sum(), len(sums)
        cuts.append(round(sums @ np.arange(length) / number) + 1 if number else round(length / 2))
    rows, columns = ((slice(cut), slice(cut, None)) for cut in cuts)
    return [(row, column) for row in rows for column in columns]


def _counts(pred: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Pixels of the background and of the foreground of each level, float64 ``(2, 256)``."""
    if not pred.size:
        return np.zeros((2, 256))
    joint = cv2.calcHist([pred, foreground], [0, 1], None, [256, 2], [0, 256, 0, 2])
    return joint.T.astype(np.float64)


def _f_measure(found: np.ndarray, number: float) -> np.ndarray:
    """F of ``found``: background and foreground pixels of binary maps, ``(2, n)``, where the mask has ``number``."""
    precision = found[1] / np.maximum(found.sum(0), 1)
    recall = found[1] / max(number, 1)
    bottom = BETA_SQUARED * precision + recall
    top = (1 + BETA_SQUARED) * precision * recall
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _enhanced_alignment(found: np.ndarray, number: float, size: float) -> np.ndarray:
    """E of binary maps; see :func:`_f_measure`. ``size``: pixels of the image."""
    foreground_share, background_share = (part / size for part in (number, size - number))
    total = found.sum(0)
    if number == 0:
        values = size - total
    elif number == size:
        values = total
    else:
        share = total / size
        values = np.zeros_like(total)
        pixels = (found[0], found[1], size - number - found[0], number - found[1])
        kinds = ((1, 0), (1, 1), (0, 0), (0, 1))
        for count, (b, gt) in zip(pixels, kinds):
            found_off = b - share  # from its mean over the image
            true_off = background_share if gt else -foreground_share
            phi = 2 * found_off * true_off / (found_off**2 + true_off**2 + EPS)
            values = values + (phi + 1) ** 2 / 4 * count
    return values / (size - 1 + EPS)


def _structure(
    parts: np.ndarray, levels: np.ndarray, pred: np.ndarray, quarters: Sequence[tuple[slice, slice]]
) -> float:
    """S-measure. Parts of the image without pixels are left out: pysodmetrics has NaN there."""
    counts = parts.sum(0)
    size, number = counts.sum(), counts[1].sum()
    mean = float(counts.sum(0) @ levels / size)
    if number == 0:
        return 1 - mean
    if number == size:
        return mean
    share = number / size
    objects = share * _object(counts[1], levels) + (1 - share) * _object(counts[0], 1 - levels)
    regions = 0.0
    for part, quarter in zip(parts, quarters):
        if np.count_nonzero(part) == 1:  # one level in foreground or background alone
            similarity = _uniform(levels, pred, quarter)
        else:
            similarity = _region(part, levels) if part.any() else 0.0
        regions += part.sum() / size * similarity
    return max(0.0, float(0.5 * objects + 0.5 * regions))


def _object(counts: np.ndarray, values: np.ndarray) -> float:
    """How close the values of pixels, so many of each, are to 1, and to each other."""
    number = counts.sum()
    mean = counts @ values / number
    deviation = np.sqrt(counts @ (values - mean) ** 2 / (number - 1)) if number > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + EPS))


def _region(part: np.ndarray, levels: np.ndarray) -> float:
    """Structural similarity of the map and the mask in a part of the image."""
    number = part.sum()
    x, y = part.sum(0) @ levels / number, part[1].sum() / number
    difference = levels - x
    per_pixel = 1 / (number - 1 + EPS)
    var_x = part.sum(0) @ difference**2 * per_pixel
    var_y = (part[0].sum() * y**2 + part[1].sum() * (1 - y) ** 2) * per_pixel
    covariance = (part[1] @ difference * (1 - y) - part[0] @ difference * y) * per_pixel
    a, b = 4 * x * y * covariance, (x**2 + y**2) * (var_x + var_y)
    if a != 0:
        return float(a / (b + EPS))
    return 1.0 if b == 0 else 0.0


def _uniform(levels: np.ndarray, pred: np.ndarray, quarter: tuple[slice, slice]) -> float:
    """The similarity of a part of one value to one of a mask: 1, or 0 where rounding moves the mean of equal values.

    Only that makes scores of constant maps equal to pysodmetrics's, which computes the mean so.
    """
    value = levels[pred[quarter][0, 0]]
    exact = value == 0 or value == 1  # most often, and then there is no rounding
    return float(exact or levels[pred][quarter].mean() == value)
