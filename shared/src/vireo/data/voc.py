"""Reader of Pascal VOC xml (VOCdevkit layout), checked as a whole before training."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vireo.data.files import FileDataset
from vireo.data.records import DetectionRecord, FaultLog, OnError, check_boxes, note, overhang
from vireo.errors import InputError

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on

_OVERHANG = 1.0  # pixels by which annotation tools commonly overshoot the border; more than that earns a note


class VocDetection(FileDataset):
    """Pascal VOC xml: ``root`` holds ``Annotations/``, ``JPEGImages/`` and ``ImageSets/Main/<split>.txt``.

    Coordinates become 0-based as in the devkit: integers minus 1. ``difficult`` objects are kept with ``iscrowd`` set.
    ``image_id`` is the 1-based line of the split, annotation ids number its objects in order; neither changes when bad
    records are skipped. Boxes that stick out of their image are clipped (``notes`` counts those beyond one pixel).

    Args:
        root: e.g. ``VOCdevkit/VOC2007``.
        split: name of the list in ``ImageSets/Main``, e.g. ``"trainval"``.
        classes: names by index. Default: the 20 VOC classes if the folder ``Annotations`` names no other, else the
            sorted names found there, over all splits, so that every split numbers them alike.
        on_error: ``"raise"`` at the first fault, or ``"skip"``: leave out every bad image and object, and list it in
            ``skipped``.

    Raises:
        InputError: for the first fault, naming file, record and remedy.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        root = Path(root)
        split_file = root / "ImageSets" / "Main" / f"{split}.txt"
        for folder in (root, root / "Annotations", root / "JPEGImages"):
            if not folder.is_dir():
                raise InputError("folder is missing", str(folder), "Point to the folder that holds Annotations/")
        stems = _read_split(split_file)
        names = tuple(classes) if classes is not None else find_classes(root / "Annotations")
        faults = FaultLog(on_error)
        images = _image_files(root / "JPEGImages")
        records: list[DetectionRecord] = []
        clipped: list[str] = []
        seen: set[str] = set()
        next_id = 1
        for line, stem in enumerate(stems, start=1):
            where = f"{split_file}: line {line}"
            if stem in seen:
                faults.report(f"image {stem!r} is listed twice", where)
                continue
            seen.add(stem)
            if stem not in images:
                remedy = "Add the file or remove the line, or set data.on_error=skip"
                faults.report(f"image file of {stem!r} is missing in {root / 'JPEGImages'}", where, remedy)
                continue
            path = root / "Annotations" / f"{stem}.xml"
            try:
                size, objects = read_voc_xml(path)
            except InputError as error:
                faults.report(error.what, error.where, error.remedy)
                continue
            records.append(_build_record(path, images[stem], line, next_id, size, objects, names, faults, clipped))
            next_id += len(objects)
        if not any(map(len, records)):
            raise InputError(
                "no usable object in this split: there is nothing to learn", str(split_file), "Use another"
            )
        super().__init__(
            root / "JPEGImages",
            names,
            range(1, len(names) + 1),
            records,
            on_error=on_error,
            skipped=faults.lines,
            notes=note("boxes that stuck out of their image clipped", clipped),
        )


class VocObject(NamedTuple):
    """One ``<object>``: its name, corners xyxy (0-based; NaN where the file has no number) and difficult flag."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def read_voc_xml(path: str | Path) -> tuple[tuple[int, int], list[VocObject]]:
    """``((width, height), objects)`` of one annotation file.

    Raises:
        InputError: the file is missing, no XML, declares a document type, or lacks a positive size.
    """
    where = str(path)
    root = _parse_xml(Path(path))
    try:
        width, height = (int(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
    except ValueError:
        what = "no image size (size/width and size/height)"
        raise InputError(what, where, "Add the size of the image in pixels, or set data.on_error=skip") from None
    if width < 1 or height < 1:
        what = f"image size {width}x{height} is not positive"
        raise InputError(what, where, "Write the size of the image in pixels, or set data.on_error=skip")
    return (width, height), [_read_object(element) for element in root.iterfind("object")]


def find_classes(annotations: str | Path) -> tuple[str, ...]:
    """The 20 VOC classes if the xml files of a folder name no other, else the names they do, sorted.

    Damaged files are passed over here: they are reported when a split that lists them is read.
    """
    found: set[str] = set()
    for path in sorted(Path(annotations).glob("*.xml")):
        try:
            root = _parse_xml(path)
        except InputError:
            continue
        found.update(_name(element) for element in root.iterfind("object"))
    found.discard("")
    return VOC_CLASSES if found <= set(VOC_CLASSES) else tuple(sorted(found))


class _NoDoctype(ET.TreeBuilder):
    """Refuses a document type, the only place where entities (and so entity bombs) can be declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ET.ParseError("a document type declaration is not allowed")


def _parse_xml(path: Path) -> ET.Element:
    where = str(path)
    try:
        return ET.fromstring(path.read_bytes(), parser=ET.XMLParser(target=_NoDoctype()))
    except FileNotFoundError:
        remedy = "Add the file, or set data.on_error=skip"
        raise InputError("annotation file is missing", where, remedy) from None
    except OSError as error:
        raise InputError(f"annotation file cannot be read ({error.strerror or error})", where, "Check it") from error
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two: unknown encodings
        remedy = "Correct the file, or set data.on_error=skip"
        raise InputError(f"file is no well-formed XML ({error})", where, remedy) from error


def _name(element: ET.Element) -> str:
    return (element.findtext("name") or "").strip()


def _read_object(element: ET.Element) -> VocObject:
    corners = [_coordinate(element.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
    difficult = (element.findtext("difficult") or "0").strip() not in ("0", "")
    return VocObject(_name(element), (corners[0], corners[1], corners[2], corners[3]), difficult)


def _coordinate(text: str | None) -> float:
    """1-based pixel to 0-based; VOC 2012 writes some with decimals, which the devkit's readers cut off."""
    try:
        return float(int(float(text or "nan")) - 1)
    except (ValueError, OverflowError):
        return float("nan")


def _read_split(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        found = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        raise InputError("split is missing", str(path), f"Choose one of the splits there: {found}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"split cannot be read ({error})", str(path), "Check the file") from error
    stems = [line.split()[0] for line in lines if line.strip()]  # per-class lists have a second column
    if not stems:
        raise InputError("split is empty", str(path), "List one image per line, without extension")
    for stem in stems:
        if "/" in stem or "\\" in stem:
            raise InputError(f"{stem!r} is no image name", str(path), "List names within JPEGImages, without extension")
    return stems


def _image_files(folder: Path) -> dict[str, str]:
    """File name by stem, from one listing; a ``.jpg`` wins over another extension."""
    files: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") and (
            path.stem not in files or path.suffix.lower() == ".jpg"
        ):
            files[path.stem] = path.name
    return files


def _build_record(
    path: Path,
    file_name: str,
    image_id: int,
    first_id: int,
    size: tuple[int, int],
    objects: list[VocObject],
    names: tuple[str, ...],
    faults: FaultLog,
    clipped: list[str],
) -> DetectionRecord:
    unclipped = np.array([item.box for item in objects], np.float64).reshape(-1, 4)
    boxes, wrong = check_boxes(unclipped, np.array([size] * len(objects), np.float64).reshape(-1, 2))
    kept = []
    for i, item in enumerate(objects):
        where = f"{path}: object {i + 1} ({item.name or 'no name'})"
        what = wrong[i]
        if item.name not in names:
            known = ", ".join(names)
            what = f"unknown category {item.name!r} (known: {known})"
        if what is not None:
            faults.report(what, where)
            continue
        kept.append(i)
    beyond = overhang(unclipped, boxes) > _OVERHANG
    clipped += [f"{path}: object {i + 1}" for i in kept if beyond[i]]
    boxes = boxes[kept].astype(np.float32)
    return DetectionRecord(
        file_name,
        size[0],
        size[1],
        image_id,
        boxes=boxes,
        labels=np.array([names.index(objects[i].name) for i in kept], np.int64),
        ids=np.array([first_id + i for i in kept], np.int64),
        iscrowd=np.array([objects[i].difficult for i in kept], np.bool_),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )
