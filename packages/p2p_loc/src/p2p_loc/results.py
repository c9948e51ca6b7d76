"""Ground truth and result files from elsewhere, checked record by record before anything is measured. No torch here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vireo.errors import InputError

from .annotations import Detections, to_xyxy
from .coco_content import is_vector, read_content, true_box

_REMEDY = "correct or remove the record"


def read_truth(path: str | Path) -> dict[str, Any]:
    """A COCO file of objects with boxes, to be evaluated on. ``true_bbox``, where there is one, counts as the box.
    A ``bbox`` beside a ``point`` is a label made from it and does not count.

    Raises:
        InputError: a file or record that cannot be used, or an annotation without a box.
    """
    content = read_content(Path(path)).content
    rows = []
    for row in content["annotations"]:
        box = true_box(row)
        if box is None:
            what = "there is no box of the object: the distance to a point is measured in units of the object's size"
            raise InputError(
                what,
                f"{path}: annotation {row['id']}",
                "evaluate on annotations with bbox and no point, or with true_bbox",
            )
        rows.append({**row, "bbox": box})
    return {**content, "annotations": rows}


def read_results(path: str | Path, truth: Mapping[str, Any], *, boxes: bool = False) -> Detections:
    """Detections from a file of COCO results.

    Each record has ``image_id``, ``category_id``, ``score`` and ``bbox`` ``[x, y, w, h]``, or ``point`` ``[x, y]``, or
    both: then the point counts. A point is a position in pixels, ``0`` in the middle of the first one, as the middle
    ``x + (w - 1) / 2`` of a box is; it becomes a box of one pixel.

    Args:
        path: JSON file, a list of records.
        truth: COCO dict that the detections are of.
        boxes: boxes are needed and count, points do not.

    Raises:
        InputError: a file that is missing, cut off, or no list; or a record of an unknown image or category, without
            a place, or with numbers that are not finite. It is named by its position, from 0.
    """
    rows = _read(Path(path))
    images = {row["id"] for row in truth["images"]}
    categories = {row["id"] for row in truth["categories"]}
    places = []
    for position, row in enumerate(rows):
        what = _fault(row, images, categories, boxes)
        if what is not None:
            raise InputError(what, f"{path}: record {position}", _REMEDY)
        places.append([*row["point"], 1, 1] if "point" in row and not boxes else row["bbox"])
    return Detections(
        np.array([row["image_id"] for row in rows], np.int64),
        to_xyxy(places),
        np.array([row["score"] for row in rows], np.float64),
        np.array([row["category_id"] for row in rows], np.int64),
    )


def flag_lines(truth: Mapping[str, Any], ignore_flags: Iterable[str]) -> list[str]:
    """What is done with flagged objects, in words: those that are neutral, and those that count in spite of a flag."""
    honoured, rows = tuple(ignore_flags), truth["annotations"]
    neutral = sum(any(row.get(flag) for flag in honoured) for row in rows)
    lines = [f"neutral objects: {neutral} of {len(rows)}, flagged {' or '.join(honoured) or '(no flag is honoured)'}"]
    others = {flag: sum(bool(row.get(flag)) for row in rows) for flag in ("iscrowd", "ignore", "uncertain")}
    counted = [f"{count} flagged {flag}" for flag, count in others.items() if count and flag not in honoured]
    return [*lines, f"counted like all others: {', '.join(counted)}"] if counted else lines


def _read(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", str(path), "check the path") from None
    except (ValueError, RecursionError) as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise InputError(f"not valid JSON ({error})", str(path), "it may be cut short: write it again") from None
    if not isinstance(rows, list):
        remedy = "give COCO results: a list of records with image_id, category_id, score and bbox or point"
        raise InputError("no list of detections", str(path), remedy)
    return rows


def _fault(row: Any, images: Collection[int], categories: Collection[int], boxes: bool) -> str | None:
    """What is wrong with a record, in words."""
    if not isinstance(row, dict):
        return "the record is no object"
    for key, known in (("image_id", images), ("category_id", categories)):
        value = row.get(key)
        if type(value) is not int or value not in known:
            return f"{key} {value!r:.40} is not listed in the ground truth" if key in row else f"{key!r} is missing"
    score = row.get("score")
    if not is_vector([score], 1):
        return f"'score' is {score!r:.40}, no finite number" if "score" in row else "'score' is missing"
    key, count = ("point", 2) if "point" in row and not boxes else ("bbox", 4)
    if key not in row:
        return "'bbox' is missing" if boxes else "neither 'bbox' nor 'point' is there"
    if not is_vector(row[key], count):
        return f"{key!r} is {row[key]!r:.60}, not {count} finite numbers"
    if count == 4 and min(row[key][2:]) < 0:
        return f"'bbox' is {row[key]}: width or height is negative"
    return None
