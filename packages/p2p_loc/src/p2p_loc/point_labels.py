"""From annotations with boxes or points to what a detector is trained on: coarse points, tiles, pseudo boxes.

The order is the authors': one point for each object of the whole image, then tiles, then pseudo boxes. Functions here
map a COCO dict to a new one; all numbers they write have three decimals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vireo.errors import InputError

from .annotations import rounded
from .coarse import Distribution, coarse_points, fully_supervised
from .coco_content import true_box
from .pseudo import class_sizes, clip_boxes, keep_boxes, pseudo_boxes
from .tiles import Policy, tile_annotations

PseudoBox = Sequence[float] | Literal["mean_size", "mean_wh"]


@dataclass(frozen=True)
class PointSettings:
    """How coarse points are drawn; see :func:`~p2p_loc.coarse.coarse_points`."""

    dist: Distribution = "uniform"
    mu: float = 0.0
    sigma: float = 0.25
    size_range: float = 1.0
    at: tuple[float, float] = (0.5, 0.5)
    masks: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TileSettings:
    """How images are cut; see :func:`~p2p_loc.tiles.tile_image`."""

    tile: tuple[int, int] = (640, 512)
    overlap: tuple[int, int] = (100, 100)
    policy: Policy = "slide"


@dataclass(frozen=True)
class LabelStatistics:
    """What became of the annotations of a file."""

    images: int
    """Images, or tiles."""
    objects: int
    """Labels written; an object in the overlap of tiles counts for each."""
    given: int
    """Annotations of the file."""
    unusable: int
    """Annotations left out: a side below one pixel, no area, or outside of the image."""
    dropped: int
    """Objects left out: next to nothing of their label lies in the image, or no tile has them."""
    outside_image: int
    """Points outside of their image; a pseudo box keeps few of them."""
    outside_box: int
    """Points outside of the true box."""
    duplicates: int
    """Points that another object of the same image and category has, too."""
    fully_supervised: int
    """Objects whose label is their true box."""
    mean_distance: float | None
    """Mean of ((dx / w)^2 + (dy / h)^2)^0.5 between the points and the centres of the true boxes."""


@dataclass(frozen=True)
class Labels:
    """Labels of a training set.

    Attributes:
        content: the COCO dict: images (perhaps tiles), annotations with ``point``, ``bbox`` and, where known,
            ``true_bbox``.
        statistics: what became of the annotations.
    """

    content: dict[str, Any]
    statistics: LabelStatistics


def make_labels(
    content: Mapping[str, Any],
    *,
    points: PointSettings = PointSettings(),
    pseudo_box: PseudoBox = (16, 16),
    tiles: TileSettings | None = None,
    fully_ratio: float = 0.0,
    labels: Literal["points", "boxes"] = "points",
    where: str = "annotations",
) -> Labels:
    """The labels that the first round is trained on.

    Args:
        content: checked by :func:`~p2p_loc.coco_content.check_content`. Annotations that have a ``point`` keep it.
        points: how the others get one.
        pseudo_box: width and height in pixels, or a mean over the true boxes of each class.
        tiles: how images are cut; None: not at all.
        fully_ratio: share of objects whose label is their true box.
        labels: ``boxes`` trains on the true boxes of all objects: the upper bound. Points are then their centres.
        where: names the content in messages.

    Raises:
        InputError: no annotation left, settings that make no sense, or true boxes that are needed and not known.
    """
    if labels not in ("points", "boxes"):
        raise InputError(f"{labels!r} is not a choice", "data.labels", "use points or boxes")
    whole, unusable = add_points(content, points, where)
    outside, off_box, twice = _oddities(whole)
    wanted = len(whole["annotations"])
    if tiles is not None:
        whole = tile_annotations(whole, tiles.tile, tiles.overlap, tiles.policy, by=labels)
    if labels == "boxes":
        labelled = _true_labels(whole, where)
    else:
        labelled = add_pseudo_boxes(whole, pseudo_box, where)
        labelled = add_full(labelled, fully_ratio, points.seed + 1, where)
    rows = labelled["annotations"]
    if not rows:
        raise InputError("no label is left", where, "check that points and boxes are in pixels of their images")
    statistics = LabelStatistics(
        images=len(labelled["images"]),
        objects=len(rows),
        given=len(content["annotations"]),
        unusable=unusable,
        dropped=wanted - len({row["id"] if tiles is None else row["source_id"] for row in rows}),
        outside_image=outside,
        outside_box=off_box,
        duplicates=twice,
        fully_supervised=sum(bool(row.get("is_fully")) for row in rows),
        mean_distance=mean_distance(rows),
    )
    return Labels(labelled, statistics)


def add_points(content: Mapping[str, Any], settings: PointSettings, where: str) -> tuple[dict[str, Any], int]:
    """Coarse points for all annotations, in the order of the file; what was ``bbox`` becomes ``true_bbox``.

    Annotations with a ``point`` keep it, and draw nothing; a ``bbox`` beside it is a label and goes. Annotations whose
    true box has a side below one pixel, an ``area`` of 0 or no overlap with the image are left out, after the draws.

    Returns:
        The new content, and how many were left out.

    Raises:
        InputError: masks are asked for and an annotation has none, or settings make no sense.
    """
    rows = content["annotations"]
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    new = [i for i, row in enumerate(rows) if "point" not in row]
    given = [true_box(row) for row in rows]
    masks = None
    if settings.masks and new:
        masks = [_segmentation(rows[i], where) for i in new]
    drawn = coarse_points(
        [given[i] for i in new],
        settings.dist,
        mu=settings.mu,
        sigma=settings.sigma,
        size_range=settings.size_range,
        at=settings.at,
        masks=masks,
        rng=np.random.RandomState(settings.seed),
    )
    points = np.array([row.get("point", (0, 0)) for row in rows], np.float64).reshape(-1, 2)
    points[new] = drawn
    boxes = np.array([(0, 0, 0, 0) if box is None else box for box in given], np.float64).reshape(-1, 4)
    annotations = []
    for row, box, point, as_written in zip(rows, given, rounded(points).tolist(), rounded(boxes).tolist()):
        if box is not None and not _is_usable(row, box, sizes[row["image_id"]]):
            continue
        kept = {key: value for key, value in row.items() if key != "bbox"} | {"point": point}
        annotations.append(kept if box is None else {**kept, "true_bbox": as_written})
    return {**content, "annotations": annotations}, len(rows) - len(annotations)


def add_pseudo_boxes(
    content: Mapping[str, Any], size: PseudoBox = (16, 16), where: str = "annotations"
) -> dict[str, Any]:
    """The content with a ``bbox`` around every point, clipped to the image; see :func:`~p2p_loc.pseudo.pseudo_boxes`.

    Annotations whose box lies outside are left out.

    Raises:
        InputError: a mean size is asked for and a class has no true box of at least 2 pixels, or the size is none.
    """
    rows = content["annotations"]
    sides: Any = size
    if isinstance(size, str):
        known = [row for row in rows if "true_bbox" in row]
        by_class = class_sizes([row["true_bbox"] for row in known], [row["category_id"] for row in known], size)
        for row in rows:
            if row["category_id"] not in by_class:
                what = f"category {row['category_id']} has no true box to take the size from"
                raise InputError(what, where, "give width and height of the pseudo boxes")
        sides = np.array([by_class[row["category_id"]] for row in rows]).reshape(-1, 2)
    elif len(size) != 2:
        raise InputError(f"{list(size)} is no width and height", "pseudo_box", "give two numbers, such as 16 16")
    boxes, kept = pseudo_boxes([row["point"] for row in rows], sides, _sizes(content))
    return _with_boxes(content, boxes, kept)


def add_full(content: Mapping[str, Any], ratio: float, seed: int, where: str = "annotations") -> dict[str, Any]:
    """The content with a share of the objects fully supervised: ``is_fully`` 1, and the true box as ``bbox``.

    Raises:
        InputError: ``ratio`` is no share, or one of them has no true box.
    """
    rows = content["annotations"]
    full = np.array([bool(row.get("is_fully")) for row in rows], np.bool_)
    chosen = fully_supervised(full, ratio, np.random.RandomState(seed))
    annotations = []
    for row, is_full in zip(rows, chosen.tolist()):
        if is_full and "true_bbox" not in row:
            what = f"annotation {row['id']} has no true box to be supervised with"
            raise InputError(what, where, "use fully_ratio 0 for points without boxes")
        annotations.append({**row, "is_fully": 1, "bbox": list(row["true_bbox"])} if is_full else row)
    return {**content, "annotations": annotations}


def mean_distance(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean normalised distance of points to the centres of the true boxes; None where none is known."""
    known = [row for row in rows if "true_bbox" in row]
    if not known:
        return None
    points = np.array([row["point"] for row in known], np.float64)
    boxes = np.array([row["true_bbox"] for row in known], np.float64)
    offsets = (points - boxes[:, :2] - boxes[:, 2:] / 2) / boxes[:, 2:]
    return float(np.linalg.norm(offsets, axis=1).mean())


def _true_labels(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The content with the true boxes, clipped, as labels and their centres as points."""
    rows = content["annotations"]
    for row in rows:
        if "true_bbox" not in row:
            what = f"annotation {row['id']} has no box"
            raise InputError(what, where, "train on points: data.labels=points")
    boxes = clip_boxes([row["true_bbox"] for row in rows], _sizes(content))
    labelled = _with_boxes(content, boxes, keep_boxes(boxes))
    for row in labelled["annotations"]:
        x, y, width, height = row["bbox"]
        row["point"] = rounded(np.array([x + width / 2, y + height / 2])).tolist()
    return labelled


def _with_boxes(content: Mapping[str, Any], boxes: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    columns = zip(content["annotations"], rounded(boxes).tolist(), kept.tolist())
    annotations = [{**row, "bbox": box} for row, box, is_kept in columns if is_kept]
    return {**content, "annotations": annotations}


def _sizes(content: Mapping[str, Any]) -> np.ndarray:
    """``(N, 2)`` width and height of each annotation's image."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    return np.array([sizes[row["image_id"]] for row in content["annotations"]], np.float64).reshape(-1, 2)


def _is_usable(row: Mapping[str, Any], box: Sequence[float], size: tuple[int, int]) -> bool:
    x, y, width, height = box
    area = row.get("area", width * height)
    overlaps = min(x + width, size[0]) > max(x, 0) and min(y + height, size[1]) > max(y, 0)
    return width >= 1 and height >= 1 and (not isinstance(area, int | float) or area > 0) and overlaps


def _segmentation(row: Mapping[str, Any], where: str) -> Any:
    if not row.get("segmentation"):
        what = f"annotation {row['id']} has no segmentation"
        raise InputError(what, where, "draw points from the boxes, or add the masks")
    return row["segmentation"]


def _oddities(content: Mapping[str, Any]) -> tuple[int, int, int]:
    """How many points lie outside of their image, outside of their true box, and at the place of another."""
    rows, sizes = content["annotations"], _sizes(content)
    points = np.array([row["point"] for row in rows], np.float64).reshape(-1, 2)
    outside = ((points < 0) | (points > sizes)).any(axis=1)
    off_box = 0
    for row in rows:
        if "true_bbox" in row:
            x, y, width, height = row["true_bbox"]
            inside = x <= row["point"][0] <= x + width and y <= row["point"][1] <= y + height
            off_box += not inside
    places = {(row["image_id"], row["category_id"], *row["point"]) for row in rows}
    return int(outside.sum()), off_box, len(rows) - len(places)
