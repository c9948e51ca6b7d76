"""The structure of a COCO json: sections, keys, types and ids, checked entry by entry."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

from vireo.data.files import list_files
from vireo.data.records import FaultLog
from vireo.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    file = str(path)
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except FileNotFoundError:
        raise InputError("annotation file is missing", file, "Check the path") from None
    except OSError as error:
        raise InputError(
            f"annotation file cannot be read ({error.strerror or error})", file, "Check the path"
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError: json and unicode errors alike
        what = f"file is no complete JSON, cut off or damaged ({error})"
        raise InputError(what, file, "Copy or download the file again") from error
    if not isinstance(content, dict):
        what = f"top level is of type {_json_type(content)}, not object with images, annotations and categories"
        raise InputError(what, file, "Use a COCO detection file (a list is a result file, not annotations)")
    return content


def _json_type(value: object) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), "object")


def _section(content: dict[str, Any], key: str, file: str, optional: bool = False) -> list[Any]:
    if optional and key not in content:
        return []
    section = content.get(key)
    if not isinstance(section, list):
        what = (
            f"has no list {key!r}" if key not in content else f"{key!r} is of type {_json_type(content[key])}, not list"
        )
        raise InputError(what, file, "Use a COCO detection file with images, annotations and categories")
    return section


def _lacks(entry: object, types: dict[str, type]) -> str | None:
    """Which required key of a json object is missing or of the wrong type, in words; None where all are right."""
    if not isinstance(entry, dict):
        return f"entry is of type {_json_type(entry)}, not object"
    for key, kind in types.items():
        if key not in entry:
            return f"key {key!r} is missing"
        if type(entry[key]) is not kind or (kind is int and abs(entry[key]) >= 2**63):
            wanted = {int: "an integer", str: "a string", list: "a list"}[kind]
            return f"{key!r} is {entry[key]!r:.40}, not {wanted}"
    return None


def read_categories(content: dict[str, Any], file: str) -> dict[int, str]:
    """Names by category id, in the order of the ids."""
    names: dict[int, str] = {}
    for position, category in enumerate(_section(content, "categories", file)):
        where = f"{file}: categories[{position}]"
        what = _lacks(category, {"id": int, "name": str})
        if what is None and category["id"] in names:
            what = f"category id {category['id']} is used twice"
        if what is None and category["name"] in names.values():
            what = f"category name {category['name']!r} is used twice"
        if what is not None:
            raise InputError(what, where, "Correct the category list")
        names[category["id"]] = category["name"]
    if not names:
        raise InputError("category list is empty", file, "List every category with id and name")
    return dict(sorted(names.items()))


def read_images(
    content: dict[str, Any], file: str, images_dir: Path, faults: FaultLog
) -> tuple[dict[int, dict[str, Any]], set[int]]:
    """Usable image entries by id in file order, and all ids the file names."""
    images: dict[int, dict[str, Any]] = {}
    known: set[int] = set()
    for position, image in enumerate(_section(content, "images", file)):
        what = _lacks(image, {"id": int, "file_name": str, "width": int, "height": int})
        if what is not None:
            if isinstance(image, dict) and type(image.get("id")) is int:
                known.add(image["id"])  # so that its annotations are not faults of their own
            faults.report(what, f"{file}: images[{position}]")
            continue
        where = f"{file}: image {image['id']} ({image['file_name']!r})"
        name = PurePosixPath(image["file_name"])
        if image["id"] in known:
            faults.report(f"image id {image['id']} is used twice", where)
            continue
        known.add(image["id"])
        if image["width"] < 1 or image["height"] < 1:
            faults.report(f"size {image['width']}x{image['height']} is not positive", where)
        elif name.is_absolute() or ".." in name.parts:
            faults.report("file name leaves the image folder", where, "Name files relative to the image folder")
        else:
            images[image["id"]] = image
    if not known:
        raise InputError("image list is empty", file, "List every image with id, file_name, width and height")
    if not images_dir.is_dir():
        raise InputError("image folder is missing", str(images_dir), "Check the path, or unpack the images there")
    present = list_files(images_dir, [image["file_name"] for image in images.values()])
    for image_id, image in list(images.items()):
        if image["file_name"] not in present:
            where = f"{file}: image {image_id} ({image['file_name']!r})"
            remedy = "Add the file or remove the record, or set data.on_error=skip"
            faults.report(f"image file is missing in {images_dir}", where, remedy)
            del images[image_id]
    return images, known


def read_annotations(
    content: dict[str, Any],
    file: str,
    images: dict[int, dict[str, Any]],
    known: set[int],
    index_of: dict[int, int],
    faults: FaultLog,
    masks: bool,
    allow_empty: bool,
) -> list[dict[str, Any]]:
    """The annotations whose ids, keys and types are right, in file order; geometry is not looked at yet."""
    annotations = _section(content, "annotations", file, optional=allow_empty)
    if not annotations and not allow_empty:
        remedy = "Add annotations, or set allow_empty for prediction"
        raise InputError("annotation list is empty: there is nothing to learn", file, remedy)
    seen: set[int] = set()
    rows = []
    types: dict[str, type] = {"id": int, "image_id": int, "category_id": int, "bbox": list}
    for position, annotation in enumerate(annotations):
        what = _lacks(annotation, types)
        if what is not None:
            faults.report(what, f"{file}: annotations[{position}]")
            continue
        number, image_id = annotation["id"], annotation["image_id"]
        if number in seen:
            what = f"annotation id {number} is used twice"
        elif image_id not in known:
            what = f"image id {image_id} is not in the image list"
        elif annotation["category_id"] not in index_of:
            what = f"category id {annotation['category_id']} is not in the category list"
        elif not _four_numbers(annotation["bbox"]):
            what = f"bbox {annotation['bbox']!r:.60} is not four numbers"
        elif "true_bbox" in annotation and not _four_numbers(annotation["true_bbox"]):
            what = f"true_bbox {annotation['true_bbox']!r:.60} is not four numbers"
        elif masks and image_id in images:
            what = _segmentation_fault(annotation.get("segmentation"), images[image_id])
        if what is not None:
            name = images[image_id]["file_name"] if image_id in images else image_id
            faults.report(what, f"{file}: annotation {number} of image {name!r}")
            continue
        seen.add(number)
        if image_id in images:  # the annotations of an image that was left out go with it
            rows.append(annotation)
    return rows


def is_number(value: object) -> bool:
    """Whether a JSON value is a number that float64 holds (a NaN counts)."""
    return type(value) is float or (type(value) is int and abs(value) < 2**53)


def _four_numbers(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))


def _segmentation_fault(segmentation: object, image: dict[str, Any]) -> str | None:
    if isinstance(segmentation, list):
        if segmentation and all(map(_is_polygon, segmentation)):
            return None
        return "segmentation is no list of polygons of at least three points"
    if isinstance(segmentation, dict) and segmentation.get("size") == [image["height"], image["width"]]:
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            return None
        if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
            return "segmentation has run lengths that are no list of counts"
        if sum(counts) == image["height"] * image["width"]:
            return None
    return "segmentation is missing, or run lengths that do not fit the image"


def _is_polygon(part: object) -> bool:
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(is_number(value) and math.isfinite(value) for value in part)
    )
