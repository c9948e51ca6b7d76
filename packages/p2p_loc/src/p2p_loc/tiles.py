"""Cutting large images into tiles, by annotation only: which windows, and which objects each of them has.

The rules are those of the authors' tools. A tile is ``left, top, right, bottom`` in pixels of the whole image, its
``corner``; images are decoded whole and cut afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from vireo.errors import InputError

from .annotations import rounded
from .pseudo import clip_boxes, keep_boxes

Policy = Literal["slide", "shift", "grid", "runtime"]

_LEAST_SHARE = 0.3  # of an object's area inside a tile that has it
_LEAST_SHARE_OF_IGNORED = 1e-6
_MARGIN = 2  # pixels; points nearer to the border of a tile are not its own


def tile_image(
    size: Sequence[int],
    tile: Sequence[int] = (640, 512),
    overlap: Sequence[int] = (100, 100),
    policy: Policy = "slide",
) -> np.ndarray:
    """The tiles of an image.

    Args:
        size: width and height of the image.
        tile: width and height of a tile. An image that is smaller in a direction has one tile there, as long as it.
        overlap: of neighbouring tiles, horizontally and vertically.
        policy: ``slide`` begins a tile at every multiple of tile - overlap inside the image, column by column; those at
            the right and the bottom end with the image, some of them as slivers. ``shift`` makes no more than are
            needed, row by row, and moves the last ones back, so that all are whole: what prediction does (``runtime``
            is the same). ``grid`` makes as many and cuts the last ones off.

    Returns:
        int64 ``(T, 4)``: left, top, right, bottom.

    Raises:
        InputError: an empty image or tile, an overlap that is not smaller than the tile, or an unknown policy.
    """
    if policy not in ("slide", "shift", "grid", "runtime"):
        raise InputError(f"{policy!r} is no policy", "tile_policy", "use slide, shift or grid")
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"an image of {list(size)} pixels", "tile_image", "give a positive width and height")
    check_tile(tile, overlap)
    columns, rows = (_starts(*sides, policy) for sides in zip(size, tile, overlap))
    x, y = np.meshgrid(columns, rows, indexing="ij" if policy == "slide" else "xy")
    start = np.stack([x.ravel(), y.ravel()], axis=1)
    return np.concatenate([start, np.minimum(start + np.asarray(tile), np.asarray(size))], axis=1)


def check_tile(tile: Sequence[int], overlap: Sequence[int]) -> None:
    """Refuse tiles that do not move on.

    Raises:
        InputError: an empty tile, or an overlap that is negative or not smaller than the tile.
    """
    if len(tile) != 2 or len(overlap) != 2:
        what = f"tile {list(tile)} with overlap {list(overlap)} are not two numbers each"
        raise InputError(what, "tile", "give width and height, such as [640, 512], for both")
    if min(tile) < 1 or min(overlap) < 0 or any(o >= t for o, t in zip(overlap, tile)):
        what = f"tiles of {list(tile)} pixels with an overlap of {list(overlap)} do not cover an image"
        raise InputError(what, "tile", "use an overlap that is smaller than the tile")


def _starts(length: int, tile: int, overlap: int, policy: Policy) -> np.ndarray:
    """Where tiles begin along one direction."""
    step = tile - overlap
    if policy == "slide":
        return np.arange(0, length, step)
    starts = np.arange(0, max(1, length - overlap), step)
    return starts if policy == "grid" else np.minimum(starts, max(length - tile, 0))


class Cropped(NamedTuple):
    """The objects of an image as its tiles have them, tile by tile; M rows.

    Attributes:
        tile: int64 ``(M,)``, the tile.
        source: int64 ``(M,)``, the object.
        boxes: float64 ``(M, 4)`` xywh in pixels of the tile, clipped to it.
        points: float64 ``(M, 2)`` in pixels of the tile, or None.
    """

    tile: np.ndarray
    source: np.ndarray
    boxes: np.ndarray
    points: np.ndarray | None


def crop_annotations(corners: Any, boxes: Any, *, points: Any | None = None, ignore: Any | None = None) -> Cropped:
    """The objects of an image, shared out to its tiles; those in an overlap are in several.

    With ``points``, a tile has the objects whose point lies in it, at least two pixels from its border. Without, it has
    those of which 30 % of the area lies in it (of ignored ones anything), larger than 2 pixels.

    Args:
        corners: ``(T, 4)`` of :func:`tile_image`.
        boxes: ``(N, 4)`` xywh, the true boxes.
        points: ``(N, 2)``.
        ignore: bool ``(N,)``, not used with ``points``.
    """
    corners = np.asarray(corners, np.float64).reshape(-1, 1, 4)
    boxes = np.asarray(boxes, np.float64).reshape(1, -1, 4)
    sides = np.broadcast_to(corners[..., 2:] - corners[..., :2], (corners.shape[0], boxes.shape[1], 2))
    if points is not None:
        points = np.asarray(points, np.float64).reshape(1, -1, 2) - corners[..., :2]
        kept = ((points >= _MARGIN) & (points < sides - _MARGIN)).all(axis=-1)
    else:
        # In inclusive pixels, whose area is (w - 1) (h - 1): the authors' rule.
        inside = np.minimum(boxes[..., :2] + boxes[..., 2:], corners[..., 2:]) - 1
        inside = np.maximum(inside - np.maximum(boxes[..., :2], corners[..., :2]), 0).prod(axis=-1)
        area = (boxes[..., 2:] - 1).prod(axis=-1)
        share = np.divide(inside, area, out=np.zeros_like(inside), where=(boxes[..., 2:] > 1).all(axis=-1))
        kept = share >= _LEAST_SHARE
        if ignore is not None:
            kept |= (share >= _LEAST_SHARE_OF_IGNORED) & np.asarray(ignore, np.bool_)
    tile, source = kept.nonzero()
    shifted = boxes[0, source]
    shifted[:, :2] -= corners[tile, 0, :2]
    clipped = clip_boxes(shifted, sides[tile, source])
    if points is not None:
        return Cropped(tile, source, clipped, points[tile, source])
    large = keep_boxes(clipped)
    return Cropped(tile[large], source[large], clipped[large], None)


def tile_annotations(
    content: Mapping[str, Any],
    tile: Sequence[int] = (640, 512),
    overlap: Sequence[int] = (100, 100),
    policy: Policy = "slide",
    *,
    by: Literal["points", "boxes"] = "points",
) -> dict[str, Any]:
    """A COCO dict whose images are tiles of those of ``content``.

    A tile has the ``file_name`` of its image, its ``corner``, and its own ``width`` and ``height``. Ids count from 1;
    ``source_id`` of an annotation is its id in ``content``. ``area`` stays that of the whole object; segmentations are
    left out.

    Args:
        content: annotations with ``true_bbox`` (if they have one) and, for ``by="points"``, ``point``; in pixels of
            whole images.
        tile, overlap, policy: of :func:`tile_image`.
        by: what decides where an object belongs, see :func:`crop_annotations`.
    """
    rows_of: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for row in content["annotations"]:
        rows_of[row["image_id"]].append(row)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    tiles_of: dict[tuple[int, int], np.ndarray] = {}
    for image in content["images"]:
        size = (image["width"], image["height"])
        if size not in tiles_of:
            tiles_of[size] = tile_image(size, tile, overlap, policy)
        corners = tiles_of[size]
        rows = rows_of[image["id"]]
        first = len(images) + 1
        x, y = (image.get("corner") or (0, 0))[:2]  # of an image that is a tile itself
        for number, (left, top, right, bottom) in enumerate(corners.tolist(), start=first):
            corner = [left + x, top + y, right + x, bottom + y]
            place = {"width": right - left, "height": bottom - top, "corner": corner}
            images.append({**image, "id": number, **place})
        known = [row.get("true_bbox") for row in rows]
        boxes = [[0.0, 0.0, 0.0, 0.0] if box is None else box for box in known]
        if by == "points":
            found = crop_annotations(corners, boxes, points=[row["point"] for row in rows])
        else:
            found = crop_annotations(corners, boxes, ignore=[bool(row.get("ignore")) for row in rows])
        centres = found.boxes[:, :2] + found.boxes[:, 2:] / 2
        points = centres if found.points is None else found.points
        columns = zip(
            found.tile.tolist(), found.source.tolist(), rounded(found.boxes).tolist(), rounded(points).tolist()
        )
        for number, source, box, point in columns:
            row = {key: value for key, value in rows[source].items() if key not in ("segmentation", "true_bbox")}
            row |= {"id": len(annotations) + 1, "image_id": first + number, "point": point, "source_id": row["id"]}
            annotations.append(row if known[source] is None else {**row, "true_bbox": box})
    return {**content, "images": images, "annotations": annotations}
