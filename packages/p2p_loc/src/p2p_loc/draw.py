"""Points drawn on images of any size: a disk with a dark rim for each, coloured by its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LOW, HIGH = (90, 70, 255), (255, 214, 10)  # RGB of the scores 0 and 1: blue and yellow, told apart by everyone
_SMALLEST, _SHARE = 2, 500  # radius of a disk: a 500th of the longer side, at least two pixels


def score_colours(scores: Any) -> np.ndarray:
    """uint8 ``(N, 3)`` RGB of scores in [0, 1]: from blue over grey to yellow."""
    weight = np.clip(np.asarray(scores, np.float64).reshape(-1, 1), 0, 1)
    return np.rint((1 - weight) * np.array(LOW) + weight * np.array(HIGH)).astype(np.uint8)


def draw_points(
    image: Any, points: Any, *, colours: Any = None, radius: int | None = None, scores: Any = None
) -> np.ndarray:
    """Draw points on a copy of ``image``; arrays may be torch CPU tensors or numpy arrays.

    Args:
        image: uint8 RGB, ``(3, H, W)`` or ``(H, W, 3)``.
        points: ``(N, 2)``, x and y in pixels of ``image``. Those outside are not seen.
        colours: RGB 0..255 of all points, ``(3,)``, or of each, ``(N, 3)``; default: those of the scores.
        radius: of the disks in pixels; default: a 500th of the longer side, at least two pixels.
        scores: ``(N,)`` in [0, 1]. Better points are drawn over worse ones. Without scores all are alike.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``image`` is not an RGB uint8 image, or the numbers of points, colours and scores differ.
    """
    import cv2

    pixels = _copy_as_hwc(image)
    centres = np.asarray(points, np.float64).reshape(-1, 2)
    count = len(centres)
    if scores is not None and len(scores) != count:
        raise ValueError(f"{len(scores)} scores for {count} points")
    values = np.ones(count) if scores is None else np.asarray(scores, np.float64)
    rows = np.asarray(score_colours(values) if colours is None else colours, np.uint8).reshape(-1, 3)
    if len(rows) not in (1, count):
        raise ValueError(f"{len(rows)} colours for {count} points")
    rows = np.broadcast_to(rows, (count, 3))
    side = max(_SMALLEST, round(max(pixels.shape[:2]) / _SHARE)) if radius is None else radius
    seen = np.all((centres > -side) & (centres < np.array(pixels.shape[1::-1]) + side), axis=1)
    for i in np.argsort(values, kind="stable"):
        if seen[i]:
            centre: Sequence[int] = np.rint(centres[i]).astype(int).tolist()
            cv2.circle(pixels, centre, side + 1, (0, 0, 0), -1)
            cv2.circle(pixels, centre, side, rows[i].tolist(), -1)
    return pixels


def _copy_as_hwc(image: Any) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"image must be uint8 RGB, (3, H, W) or (H, W, 3), not {pixels.dtype} {pixels.shape}")
    return np.array(pixels, order="C")
