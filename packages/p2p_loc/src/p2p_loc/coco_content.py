"""Annotation files in COCO's format: read, and checked record by record.

What is checked is what this package relies on. Boxes may stick out of their image; further fields stay as they are. No
torch here: annotation work runs anywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

from vireo.errors import InputError

_LARGEST = 2**53  # of whole numbers; float64 holds no larger ones exactly
_REMEDY = "correct or remove the record, or skip such records"


class Content(NamedTuple):
    """A COCO dict that was checked.

    Attributes:
        content: ``images``, ``annotations``, ``categories`` and what else the file has.
        skipped: a line for every record that was left out.
    """

    content: dict[str, Any]
    skipped: tuple[str, ...] = ()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: the file is missing, cut off, or no JSON.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number JSON knows")

    try:
        return json.loads(path.read_bytes(), parse_constant=refuse)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", str(path), "check the path") from None
    except (ValueError, RecursionError) as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise InputError(f"not valid JSON ({error})", str(path), "it may be cut short: fetch it again") from None


def read_content(path: Path, on_error: str = "raise") -> Content:
    """Read and check a COCO file of boxes, points or both; see :func:`check_content`.

    Raises:
        InputError: as :func:`read_json` and :func:`check_content`.
    """
    return check_content(read_json(path), str(path), on_error)


def check_content(content: Any, where: str, on_error: str = "raise") -> Content:
    """Check ids, sizes, boxes and points of a COCO dict.

    An annotation needs ``id``, ``image_id``, ``category_id``, and a ``bbox`` or a ``point`` or both; ``true_bbox`` may
    be there.

    Args:
        content: the dict; it is not changed.
        where: names it in messages.
        on_error: ``raise`` at the first record that cannot be used, or ``skip`` all of them. An annotation of an image
            that was left out is left out silently.

    Raises:
        InputError: a record, a section that is missing, or nothing left.
    """
    if on_error not in ("raise", "skip"):
        raise InputError(f"{on_error!r} is not a choice", "on_error", "use raise or skip")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"no list {key!r}", where, "give an annotation file in COCO's object-detection format")
    categories: dict[int, str] = {}
    for position, row in enumerate(content["categories"]):
        what = _lacks(row, {"id": int, "name": str})
        if what is None and (row["id"] in categories or row["name"] in categories.values()):
            what = f"id {row['id']} or name {row['name']!r} is used twice"
        if what is not None:
            raise InputError(what, f"{where}: category {position}", "correct the list of categories")
        categories[row["id"]] = row["name"]
    if not categories:
        raise InputError("the list of categories is empty", where, "list every category with id and name")

    skipped: list[str] = []

    def usable(rows: Sequence[Any], kind: str, fault: Callable[[Any], str | None]) -> list[Any]:
        """The rows without a fault; a fault of "" leaves a row out silently."""
        kept = []
        for position, row in enumerate(rows):
            what = fault(row)
            if what:
                name = row.get("id", position) if isinstance(row, dict) else position
                if on_error == "raise":
                    raise InputError(what, f"{where}: {kind} {name}", _REMEDY)
                skipped.append(f"{where}: {kind} {name}: {what}")
            elif what is None:
                kept.append(row)
        return kept

    listed = {row["id"] for row in content["images"] if isinstance(row, dict) and type(row.get("id")) is int}
    seen: set[int] = set()
    images = usable(content["images"], "image", lambda row: _image_fault(row, seen))
    present = {row["id"] for row in images}
    if not present:
        raise InputError("no image is left", where, "list every image with id, file_name, width and height")
    ids: set[int] = set()
    annotations = usable(
        content["annotations"], "annotation", lambda row: _annotation_fault(row, ids, present, listed, categories)
    )
    return Content({**content, "images": images, "annotations": annotations}, tuple(skipped))


def select_classes(content: Mapping[str, Any], names: Sequence[str] | None, where: str = "classes") -> dict[str, Any]:
    """The content with some of its categories only; the images all stay. None: with all of them.

    Raises:
        InputError: a name that the file does not have.
    """
    if names is None:
        return dict(content)
    known = {row["name"]: row["id"] for row in content["categories"]}
    for name in names:
        if name not in known:
            raise InputError(f"there is no category {name!r}", where, f"choose from {', '.join(known)}")
    chosen = {known[name] for name in names}
    return {
        **content,
        "categories": [row for row in content["categories"] if row["id"] in chosen],
        "annotations": [row for row in content["annotations"] if row["category_id"] in chosen],
    }


def true_box(row: Mapping[str, Any]) -> list[float] | None:
    """The object's box xywh, or None: ``true_bbox``, or ``bbox`` where no ``point`` says that this is a label."""
    box: list[float] | None = row.get("true_bbox", None if "point" in row else row.get("bbox"))
    return box


def is_vector(value: Any, count: int) -> bool:
    """Whether ``value`` is a list of so many finite numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and all(abs(v) < _LARGEST if type(v) is int else isinstance(v, float) and math.isfinite(v) for v in value)
    )


def _lacks(row: Any, types: Mapping[str, type]) -> str | None:
    """What a record misses, in words; None where all is there."""
    if not isinstance(row, dict):
        return "the record is no object"
    for key, kind in types.items():
        if type(row.get(key)) is not kind or (kind is int and abs(row[key]) >= _LARGEST):
            return f"{key!r} is {row[key]!r:.40}, not {_KINDS[kind]}" if key in row else f"{key!r} is missing"
    return None


_KINDS = {int: "an integer", str: "a string"}


def _image_fault(row: Any, seen: set[int]) -> str | None:
    what = _lacks(row, {"id": int, "file_name": str})
    if what is not None:
        return what
    name = PurePosixPath(row["file_name"])
    if name.is_absolute() or ".." in name.parts:
        return f"file name {row['file_name']!r} leaves the folder of images"
    sides = [row.get("width"), row.get("height")]
    if any(type(side) is not int or not 1 <= side < _LARGEST for side in sides):
        return f"size {sides[0]!r:.20} x {sides[1]!r:.20} is not of two positive integers"
    corner = row.get("corner")
    if corner is not None:
        if not (is_vector(corner, 4) and all(type(v) is int for v in corner) and min(corner[:2]) >= 0):
            return f"corner {corner!r:.60} is not left, top, right and bottom in whole pixels"
        if [corner[2] - corner[0], corner[3] - corner[1]] != [row["width"], row["height"]]:
            return f"corner {corner} is not of the size {row['width']} x {row['height']}"
    if row["id"] in seen:
        return "the id is used twice"
    seen.add(row["id"])
    return None


def _annotation_fault(
    row: Any, ids: set[int], present: Collection[int], listed: Collection[int], categories: Collection[int]
) -> str | None:
    what = _lacks(row, {"id": int, "image_id": int, "category_id": int})
    if what is not None:
        return what
    if row["image_id"] not in present:
        return "" if row["image_id"] in listed else f"no image has the id {row['image_id']}"
    if row["category_id"] not in categories:
        return f"no category has the id {row['category_id']}"
    if "bbox" not in row and "point" not in row:
        return "neither 'bbox' nor 'point' is there"
    for key, count in (("bbox", 4), ("true_bbox", 4), ("point", 2)):
        if key in row and not is_vector(row[key], count):
            return f"{key!r} is {row[key]!r:.60}, not {count} finite numbers"
        if key in row and count == 4 and min(row[key][2:]) < 0:
            return f"{key!r} is {row[key]}: width or height is negative"
    if row["id"] in ids:
        return "the id is used twice"
    ids.add(row["id"])
    return None
