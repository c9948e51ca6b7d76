"""Points without boxes, from the formats in which people keep them: csv, json, and a .txt or .mat file for each image.

Such sets (crowd counting: ShanghaiTech, for one) become COCO dicts of one category, ``person`` unless the file names
others, whose annotations have a ``point`` and no box. Nothing in the files is executed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vireo.data.header import read_header
from vireo.errors import InputError

from .coco_content import Content, check_content, read_json

CATEGORY = "person"  # of points that have none

_COLUMNS = "file_name, x, y and, where they are known, category, width, height"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_BEYOND = 1.0  # pixels by which annotation tools commonly overshoot the border, and which count from 1
_REMEDY = "correct or remove it, or skip such records with --on-error skip"


class _Point(NamedTuple):
    """One point of a file, and how messages name it."""

    file_name: str
    x: Any
    y: Any
    category: str
    where: str


def read_points(path: str | Path, images: str | Path | None = None, on_error: str = "raise") -> Content:
    """Points without boxes as a COCO dict.

    ===============  =================================================================================================
    ``*.csv``        a header that names the columns file_name, x, y and, optionally, category, width, height
    ``*.json``       ``{"a.jpg": [[x, y], ...]}``; a list of objects with the columns of a csv; or a COCO file
    a folder         ``NAME.txt`` with a line ``x y`` for each point, or ``NAME.mat`` (ShanghaiTech's ``image_info``, or
                     any array with two columns), for the image ``NAME.jpg``; ``GT_NAME.mat`` belongs to it, too
    ===============  =================================================================================================

    Points up to one pixel outside of their image are moved to its border, others are faults. Points at the same place
    are kept.

    Args:
        path: the file or the folder.
        images: folder of the images, which sizes are read from; may be None where the file has ``width`` and
            ``height``.
        on_error: ``raise`` at the first record that cannot be used, or ``skip``.

    Raises:
        InputError: a file or record that cannot be used, named, or no point at all.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such file or folder", str(path), "check the path")
    skipped: list[str] = []

    def report(error: InputError) -> None:
        if on_error == "raise":
            raise error
        skipped.append(f"{error.where}: {error.what}")

    sizes: dict[str, Any] = {}
    names: list[str] = []  # images that have a file, even one without points
    if path.is_dir():
        if images is None:
            raise InputError("the images are not known", str(path), "give their folder with --images")
        names, points = _read_folder(path, Path(images), report)
    elif path.suffix.lower() == ".csv":
        points = list(_rows(_read_csv(path), str(path), sizes))
    elif path.suffix.lower() == ".json":
        content = read_json(path)
        if isinstance(content, dict) and "annotations" in content:
            return check_content(content, str(path), on_error)
        names, points = _read_json_points(content, str(path), sizes)
    else:
        raise InputError("is no csv, json or folder", str(path), "point files end in .csv or .json")
    made = _content(names, points, sizes, None if images is None else Path(images), str(path), report)
    checked = check_content(made, str(path), on_error)
    return Content(checked.content, (*skipped, *checked.skipped))


def _content(
    names: list[str],
    points: list[_Point],
    sizes: Mapping[str, Any],
    images: Path | None,
    where: str,
    report: Callable[[InputError], None],
) -> dict[str, Any]:
    """The COCO dict of points by file name: images in the order in which they occur, categories sorted."""
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*names, *(point.file_name for point in points)]):
        try:
            width, height = _size(name, sizes, images, where)
        except InputError as error:
            report(error)
            continue
        rows[name] = {"id": len(rows) + 1, "file_name": name, "width": width, "height": height}
    categories = {name: i for i, name in enumerate(sorted({point.category for point in points}), start=1)}
    annotations: list[dict[str, Any]] = []
    for point in points:
        if point.file_name not in rows:
            continue
        row = rows[point.file_name]
        try:
            place = _inside(point, row["width"], row["height"])
        except InputError as error:
            report(error)
            continue
        number = categories[point.category]
        annotations.append(
            {"id": len(annotations) + 1, "image_id": row["id"], "category_id": number, "point": place, "iscrowd": 0}
        )
    if not annotations:
        raise InputError("no point is left", where, "check the file and the folder of images")
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": list(rows.values()), "annotations": annotations, "categories": listed}


def _size(name: str, sizes: Mapping[str, Any], images: Path | None, where: str) -> tuple[int, int]:
    """Width and height of an image, from the point file or from the image's header."""
    if images is not None:
        height, width = read_header(images / name).size
        return width, height
    if name not in sizes:
        remedy = "add columns width and height, or give the folder of images with --images"
        raise InputError(f"the size of {name!r} is not known", where, remedy)
    try:
        width, height = (int(value) for value in sizes[name])
    except (TypeError, ValueError):
        what = f"size {sizes[name][0]!r} x {sizes[name][1]!r} of {name!r} is not in whole pixels"
        raise InputError(what, where, "correct the columns width and height") from None
    return width, height


def _inside(point: _Point, width: int, height: int) -> list[float]:
    try:
        x, y = float(point.x), float(point.y)
    except (TypeError, ValueError):
        raise InputError(f"x {point.x!r:.20} and y {point.y!r:.20} are no numbers", point.where, _REMEDY) from None
    if not (-_BEYOND <= x <= width + _BEYOND and -_BEYOND <= y <= height + _BEYOND):  # false for NaN
        what = f"point ({x:g}, {y:g}) lies outside of its {width}x{height} image"
        raise InputError(what, point.where, _REMEDY)
    return [min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))]


def _read_csv(path: Path) -> list[dict[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", str(path), "give a csv file in UTF-8") from None
    if not {"file_name", "x", "y"} <= set(columns):
        what = f"the columns are {', '.join(columns) or 'none'}"
        raise InputError(what, str(path), f"name them in the first line: {_COLUMNS}")
    return rows


def _rows(rows: list[dict[str, Any]], where: str, sizes: dict[str, Any]) -> Iterator[_Point]:
    """The points of rows with the columns of a csv; ``sizes`` gets width and height by file name."""
    for number, row in enumerate(rows, start=1):
        name = f"{where}: point {number}"
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise InputError("has no file_name", name, f"give every point {_COLUMNS}")
        if row.get("width") and row.get("height"):
            sizes.setdefault(row["file_name"], (row["width"], row["height"]))
        yield _Point(row["file_name"], row.get("x"), row.get("y"), str(row.get("category") or CATEGORY), name)


def _read_json_points(content: Any, where: str, sizes: dict[str, Any]) -> tuple[list[str], list[_Point]]:
    if isinstance(content, list):
        return [], list(_rows(content, where, sizes))
    if not isinstance(content, dict):
        raise InputError("holds no points", where, 'give {"a.jpg": [[x, y], ...]}, a list of points, or a COCO file')
    points = []
    for name, places in content.items():
        if not isinstance(places, list) or not all(isinstance(place, list) and len(place) == 2 for place in places):
            raise InputError(f"the entry {name!r} is no list of [x, y]", where, "correct it")
        for number, (x, y) in enumerate(places, start=1):
            points.append(_Point(name, x, y, CATEGORY, f"{where}: point {number} of {name!r}"))
    return list(content), points


def _read_folder(folder: Path, images: Path, report: Callable[[InputError], None]) -> tuple[list[str], list[_Point]]:
    """The points of a folder with one file for each image."""
    if not images.is_dir():
        raise InputError("no such folder", str(images), "give the folder of the images")
    by_stem = {path.stem: path.name for path in sorted(images.iterdir()) if path.suffix.lower() in _SUFFIXES}
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".txt", ".mat")]
    if not files:
        raise InputError("has no .txt and no .mat file", str(folder), "give the folder of the point files")
    names, points = [], []
    for file in files:
        stem = file.stem if file.stem in by_stem else file.stem.removeprefix("GT_")
        if stem not in by_stem:
            what = f"there is no image of that name in {images}"
            report(InputError(what, str(file), "add the image, or skip such files with --on-error skip"))
            continue
        found = _read_txt(file) if file.suffix.lower() == ".txt" else _read_mat(file)
        name = by_stem[stem]
        names.append(name)
        points += [
            _Point(name, x, y, CATEGORY, f"{file}: point {number}") for number, (x, y) in enumerate(found, start=1)
        ]
    return names, points


def _read_txt(path: Path) -> list[list[Any]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", str(path), "give lines of x and y") from None
    points: list[list[Any]] = []
    for number, line in enumerate(lines, start=1):
        values: list[Any] = line.replace(",", " ").split()
        if not values:
            continue
        if not 2 <= len(values) <= 3:  # a third number is a score or a class; boxes have more
            raise InputError(
                f"{line!r:.40} is no point", f"{path}: line {number}", "write x and y, with a space between"
            )
        points.append(values[:2])
    return points


def _read_mat(path: Path) -> list[list[float]]:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises whatever a damaged file makes its parser meet
        what = f"cannot be read as a MATLAB file ({error})"
        raise InputError(what, str(path), "it may be damaged, or of version 7.3: save it with -v7") from None
    found = next((points for value in content.values() if (points := _locations(value)) is not None), None)
    if found is None:
        remedy = "give image_info with location, or an array of two columns"
        raise InputError("holds no array of points", str(path), remedy)
    return [[float(x), float(y)] for x, y in found]


def _locations(value: Any) -> np.ndarray | None:
    """The array of two columns inside nested cells and structures; of a structure, its field ``location``."""
    if not isinstance(value, np.ndarray | np.void):
        return None
    if value.dtype.names:
        chosen = value["location"] if "location" in value.dtype.names else None
        return None if chosen is None else _locations(np.asarray(chosen))
    array = np.asarray(value)
    if array.dtype == np.object_:
        return next((points for entry in array.ravel() if (points := _locations(entry)) is not None), None)
    if array.dtype.kind in "iuf" and array.ndim == 2 and (array.shape[1] == 2 or array.size == 0):
        return array.reshape(-1, 2)
    return None
