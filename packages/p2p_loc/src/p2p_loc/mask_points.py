"""Coarse points on the masks of objects, with the stream of the authors' tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vireo.errors import InputError

from .coarse import Generator

_LEAST_SIDE = 2  # pixels of a box whose mask is rasterised
_LONGEST_HALF_AXIS = 96.0  # pixels, of the ellipse of center_gaussian


def mask_points(
    boxes: np.ndarray, masks: Sequence[Any], dist: str, *, mu: float, sigma: float, size_range: float, rng: Generator
) -> np.ndarray:
    """One point on the mask of each object; see :func:`~p2p_loc.coarse.coarse_points`.

    A mask is rasterised in its box, at its size in whole pixels. ``uniform`` takes any of its pixels, ``rg`` weighs
    them by a normal density of the fractions of the box, ``center_gaussian`` also cuts them to the ellipse. The point
    is then moved by up to half a pixel. Where the box has a side under 2 pixels or the mask none, the point is a vertex
    of the first polygon, or for run lengths the centre of the box.

    Args:
        boxes: float64 ``(N, 4)`` xywh.
        masks: COCO segmentations: lists of polygons in pixels of the image, or run lengths of the whole image.
        rng: first draws all movements, ``uniform(-0.5, 0.5, (N, 2))``, then one number for each object.

    Raises:
        InputError: fewer or more masks than boxes, or a segmentation that is neither.
    """
    if len(masks) != len(boxes):
        raise InputError(f"{len(masks)} masks for {len(boxes)} boxes", "masks", "give one for each box")
    jitter = np.asarray(rng.uniform(-0.5, 0.5, (len(boxes), 2)))
    points = np.zeros((len(boxes), 2))
    for i, (box, mask) in enumerate(zip(boxes, masks)):
        drawn = float(rng.rand(1)[0])
        weights = _weights(box, mask, dist, mu, sigma, size_range)
        total = 0.0 if weights is None else weights.sum()
        if weights is None or not total > 0:
            points[i] = _vertex(box, mask, drawn)
            continue
        pixel = _pick(weights / total, dist, drawn)
        row, column = divmod(pixel, weights.shape[1])
        points[i] = np.clip(box[:2] + np.array([column, row]), box[:2], box[:2] + box[2:])
    return points + jitter


def _weights(box: np.ndarray, mask: Any, dist: str, mu: float, sigma: float, size_range: float) -> np.ndarray | None:
    """``(H, W)`` weights of the pixels of a box, not normalised; None where it is too small."""
    width, height = int(box[2]), int(box[3])
    if min(width, height) < _LEAST_SIDE:
        return None
    weights = rasterise(mask, box, height, width).astype(np.float64)
    if dist == "uniform":
        return weights
    for axis, length in enumerate((height, width)):
        offset = (np.linspace(-0.5, 0.5, length) - mu) / sigma
        weights *= np.expand_dims(np.exp(-(offset**2) / 2), 1 - axis)
    if dist == "center_gaussian":
        weights *= _ellipse(height, width, size_range)
    return weights


def _ellipse(height: int, width: int, size_range: float) -> np.ndarray:
    """uint8 ``(H, W)``, 1 in the ellipse about the centre; OpenCV's, with centre and axes in whole pixels."""
    import cv2

    centre = (round(width / 2), round(height / 2))
    axes = tuple(round(min(_LONGEST_HALF_AXIS, side * size_range / 2)) for side in (width, height))
    ellipse = np.zeros((height, width), np.uint8)
    cv2.ellipse(ellipse, centre, axes, 0, 0, 360, 1, cv2.FILLED)
    return ellipse


def rasterise(mask: Any, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 ``(H, W)`` of 0 and 1: a COCO segmentation within its box.

    Raises:
        InputError: it is no list of polygons and no run lengths.
    """
    from pycocotools import mask as coco_mask

    try:
        if isinstance(mask, dict):
            size = mask["size"]
            runs = coco_mask.frPyObjects(mask, *size) if isinstance(mask["counts"], list) else mask
            left, top = (max(int(value), 0) for value in box[:2])
            window = coco_mask.decode(runs)[top : top + height, left : left + width]
            return np.pad(window, ((0, height - window.shape[0]), (0, width - window.shape[1])))
        if not mask or any(len(part) < 6 or len(part) % 2 for part in mask):
            raise ValueError("a polygon of less than three points")
        polygons = [(np.asarray(part, np.float64).reshape(-1, 2) - box[:2]).ravel().tolist() for part in mask]
        decoded: np.ndarray = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        return decoded
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        what = f"the segmentation {mask!r:.60} cannot be read ({error})"
        raise InputError(what, "masks", "give polygons of at least three points, or run lengths") from None


def _pick(probabilities: np.ndarray, dist: str, drawn: float) -> int:
    """The pixel that a number in [0, 1) chooses, counted row by row."""
    flat = probabilities.ravel()
    if dist == "uniform":
        inside = np.flatnonzero(flat)
        return int(inside[int(drawn * len(inside))])
    chosen = int(np.searchsorted(np.cumsum(flat), drawn, side="right"))
    return min(chosen, int(np.flatnonzero(flat)[-1]))


def _vertex(box: np.ndarray, mask: Any, drawn: float) -> np.ndarray:
    if isinstance(mask, dict) or not mask:
        return np.asarray(box[:2] + box[2:] / 2)
    vertices = np.asarray(mask[0], np.float64).reshape(-1, 2)
    return np.asarray(vertices[int(drawn * len(vertices))])
