"""The weighted F-measure of Margolin et al. (CVPR 2014), without an exact nearest-neighbour search over the image.

An error of the background counts by its distance from the foreground. An error of the foreground is smoothed by a 7 x 7
Gaussian, for which the background takes the error of its nearest foreground pixel: so that pixel is needed only in the
narrow band that the window reaches from the foreground.
"""

from __future__ import annotations

import cv2
import numpy as np

_REACH = 3  # of the Gaussian's window
_GAUSSIAN = np.exp(-(np.arange(-_REACH, _REACH + 1) ** 2) / (2 * 5.0**2))
_GAUSSIAN /= _GAUSSIAN.sum()  # the window is the product of two of these
# squared distances of the band, and what lies that far: of equally near pixels the leftmost, then the uppermost
# is taken, as scipy's distance transform does
_BAND: dict[int, list[tuple[int, int]]] = {}
for _x in range(-4, 5):
    for _y in range(-4, 5):
        if 0 < _x * _x + _y * _y <= 2 * _REACH**2:
            _BAND.setdefault(_x * _x + _y * _y, []).append((_y, _x))
_MARGIN = 8  # around the foreground: 4 for the band, and 4 for what is looked at from there
_FAR = 260**2  # a squared distance from which on the weight is 2 in float64
_WEIGHTS = 2 - 0.5 ** (np.sqrt(np.arange(_FAR + 1)) / 5)  # by squared distance; 1 on the foreground
EPS = float(np.spacing(1))


def weighted_f(levels: np.ndarray, pred: np.ndarray, foreground: np.ndarray) -> float:
    """The weighted F-measure (beta 1) of a map; 0 for a mask without foreground.

    Args:
        levels: what a level stands for, in [0, 1], float64 ``(256,)``.
        pred: levels, uint8 ``(H, W)``.
        foreground: 0 or 1, uint8 ``(H, W)``.
    """
    number = cv2.countNonZero(foreground)
    if not number:
        return 0.0
    # nothing outside of the box of foreground and non-zero pixels counts
    x, y, width, height = cv2.boundingRect(np.maximum(foreground, _non_zero(levels)[pred]))
    pred, foreground = (image[y : y + height, x : x + width] for image in (pred, foreground))
    distance = cv2.distanceTransform(1 - foreground, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    missed = _smoothed_misses(1 - levels, pred, foreground, distance)
    wrong = np.flatnonzero(_non_zero(levels)[pred] > foreground)
    false = levels[pred.ravel()[wrong]] @ _WEIGHTS[_squared(distance.ravel()[wrong])]
    recall = 1 - missed / number
    precision = (number - missed) / (number - missed + false + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def _non_zero(levels: np.ndarray) -> np.ndarray:
    return (levels > 0).astype(np.uint8)


def _squared(distance: np.ndarray) -> np.ndarray:
    """The whole numbers that distances are the roots of, at most ``_FAR``."""
    return np.minimum(distance * distance + 0.5, _FAR).astype(np.int32)


def _smoothed_misses(errors: np.ndarray, pred: np.ndarray, foreground: np.ndarray, distance: np.ndarray) -> float:
    """Sum over the foreground of the lesser of a pixel's error and the smoothed one."""
    x, y, width, height = cv2.boundingRect(foreground)
    rows, columns = slice(y, y + height + 2 * _MARGIN), slice(x, x + width + 2 * _MARGIN)

    def around(image: np.ndarray, outside: int) -> np.ndarray:
        wide = cv2.copyMakeBorder(image, *[_MARGIN] * 4, cv2.BORDER_CONSTANT, value=outside)
        return np.ascontiguousarray(wide[rows, columns])

    inside = around(foreground, 0)
    nearby = _squared(around(distance, _FAR)).ravel()
    missed = errors[around(pred, 0)] * inside
    flat, is_foreground = missed.ravel(), inside.ravel() != 0
    for squared, offsets in _BAND.items():
        places = np.flatnonzero(nearby == squared)
        seen = places + np.array([dy * missed.shape[1] + dx for dy, dx in offsets])[:, None]
        nearest = is_foreground[seen].argmax(0)  # the first of them
        flat[places] = flat[seen[nearest, np.arange(len(places))]]
    smooth = cv2.sepFilter2D(missed, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN, borderType=cv2.BORDER_CONSTANT)
    return float(np.minimum(missed, smooth).ravel() @ is_foreground)
