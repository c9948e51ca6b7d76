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
    claimed = cv2.LUT(pred, (levels > 0).astype(np.uint8))
    # nothing counts further than the window reaches from these and the foreground
    x, y, width, height = cv2.boundingRect(cv2.bitwise_or(claimed, foreground))
    box = np.s_[max(y - _REACH, 0) : y + height + _REACH, max(x - _REACH, 0) : x + width + _REACH]
    pred, foreground, claimed = pred[box], foreground[box], claimed[box]
    distance = cv2.distanceTransform(1 - foreground, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    missed = _smoothed_misses(1 - levels, pred, foreground, distance)
    wrong = claimed > foreground
    # no dot product: BLAS would start threads of its own
    false = (levels[pred[wrong]] * _WEIGHTS[_squared(distance[wrong])]).sum()
    recall = 1 - missed / number
    precision = (number - missed) / (number - missed + false + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def _squared(distance: np.ndarray) -> np.ndarray:
    """The whole numbers that distances are the roots of, at most ``_FAR``."""
    return np.minimum(distance * distance + 0.5, _FAR).astype(np.int32)


def _smoothed_misses(errors: np.ndarray, pred: np.ndarray, foreground: np.ndarray, distance: np.ndarray) -> float:
    """Sum over the foreground of the lesser of a pixel's error and the smoothed one."""
    m, (x, y, width, height) = _MARGIN, cv2.boundingRect(foreground)
    rows, columns = slice(y, y + height + 2 * m), slice(x, x + width + 2 * m)

    def around(image: np.ndarray, outside: int) -> np.ndarray:
        wide = cv2.copyMakeBorder(image, m, m, m, m, cv2.BORDER_CONSTANT, value=outside)
        return np.ascontiguousarray(wide[rows, columns])

    inside = around(foreground, 0)
    missed = cv2.LUT(around(pred, 0), errors) * inside
    flat, is_foreground = missed.ravel(), inside.ravel()
    nearby = around(distance, _FAR).ravel()
    band = np.flatnonzero((nearby > 0) & (nearby < 4.3))  # 4.24 is the diagonal of the reach
    squared = _squared(nearby[band])
    for number, offsets in _BAND.items():
        places = band[squared == number]
        seen = places + np.array([dy * missed.shape[1] + dx for dy, dx in offsets])[:, None]
        nearest = is_foreground[seen].argmax(0)  # the first of them
        flat[places] = flat[seen[nearest, np.arange(len(places))]]
    smooth = cv2.sepFilter2D(missed, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN, borderType=cv2.BORDER_CONSTANT)
    return float((np.minimum(missed, smooth) * inside).sum())
