"""Images and tiles of images as a detection data set, read from wherever the pictures are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from vireo.data import DetectionDataset, DetectionRecord, decode_image
from vireo.data.files import list_files
from vireo.data.header import read_header
from vireo.data.records import OnError, find_faults
from vireo.errors import InputError

from .annotations import to_xyxy

_CACHE_BYTES = 256 * 2**20  # of decoded images, in each process


class Images(Protocol):
    """Where pictures come from."""

    def load(self, name: str) -> Tensor:
        """``uint8 (3, H, W)`` RGB of a whole image."""
        ...


class FolderImages:
    """Image files of a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def load(self, name: str) -> Tensor:
        """Decode a file.

        Raises:
            InputError: it is missing, damaged or too large.
        """
        return decode_image(self.folder / name)

    def size(self, name: str) -> tuple[int, int]:
        """Height and width, from the header.

        Raises:
            InputError: as :meth:`load`.
        """
        height, width = read_header(self.folder / name).size
        return height, width


class GeneratedImages:
    """The pictures of a generated data set, by their ``file_name``."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset
        self.index = {record.file_name: i for i, record in enumerate(dataset.records)}

    def load(self, name: str) -> Tensor:
        """Render a picture."""
        return self.dataset.load_image(self.index[name])


class CachedImages:
    """Images that stay in memory once they were decoded, up to 256 MiB in each process; the last one always stays.

    A large image is decoded once for all its tiles where these follow one another, a small data set once in all.
    """

    def __init__(self, images: Images) -> None:
        self.images = images
        self._decoded: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def load(self, name: str) -> Tensor:
        """The image; it must not be changed."""
        if name in self._decoded:
            self._decoded.move_to_end(name)
            return self._decoded[name]
        image = self._decoded[name] = self.images.load(name)
        self._bytes += image.numel()
        while len(self._decoded) > 1 and self._bytes > _CACHE_BYTES:
            _, oldest = self._decoded.popitem(last=False)
            self._bytes -= oldest.numel()
        return image


class TileDataset(DetectionDataset):
    """The images of a COCO dict, of which some may be tiles of larger ones; samples as of ``DetectionDataset``.

    The boxes are the ``bbox`` of the content, clipped to the image.

    Args:
        images: where the pictures are; :class:`CachedImages` for tiles.
        content: COCO dict; an image may have a ``corner``.
        train: leave out what the authors do not train on: crowds, objects with ``ignore``, boxes with a side under one
            pixel, without area or outside; and images without any annotation. Images all of whose objects are ignored
            stay, as background. Else every image and every box is there, crowds and ignored objects with ``iscrowd``.
        drop_ignore: with ``train``, whether objects with ``ignore`` are background; else they are like all others.
        min_gt_size: with ``train``, leave out images none of whose trained boxes has a side above this many pixels.
            0: none of them.
        skipped, notes: what was left out before, one line each.

    Attributes:
        truth: the content.
        corners: left, top, right, bottom by image id, of the tiles.

    Raises:
        InputError: no image is left to train on.
    """

    def __init__(
        self,
        images: Images,
        content: Mapping[str, Any],
        *,
        train: bool = False,
        drop_ignore: bool = True,
        min_gt_size: float = 0.0,
        skipped: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> None:
        categories = sorted(content["categories"], key=lambda row: row["id"])
        ids = [row["id"] for row in categories]
        records = _records(content, {number: i for i, number in enumerate(ids)}, train, drop_ignore, min_gt_size)
        if not records or (train and not any(map(len, records))):
            what = "no object is left to train on: all are ignored, crowds, or without area"
            raise InputError(what, "training set", "check the annotations, or set data.drop_ignore=false")
        super().__init__([row["name"] for row in categories], ids, records, skipped=skipped, notes=notes)
        self.images = images
        self.truth = dict(content)
        self.corners = {row["id"]: tuple(row["corner"]) for row in content["images"] if row.get("corner") is not None}

    def load_image(self, index: int) -> Tensor:
        """The image or tile of sample ``index``; ``uint8 (3, H, W)`` RGB.

        Raises:
            InputError: the file is missing, damaged, too large, or not of the size its record says.
        """
        record = self.records[index]
        whole = self.images.load(record.file_name)
        corner = self.corners.get(record.image_id)
        left, top, right, bottom = corner or (0, 0, record.width, record.height)
        height, width = whole.shape[1:]
        if (right > width or bottom > height) if corner else (right, bottom) != (width, height):
            raise _wrong_size(record.file_name, (height, width), (right, bottom), corner is not None)
        return whole[:, top:bottom, left:right]


def check_images(
    images: FolderImages, content: Mapping[str, Any], extent: str, on_error: OnError
) -> tuple[dict[str, Any], list[str]]:
    """The content without the images whose files cannot be used, and a line for each of these.

    Args:
        images: where the files are.
        content: COCO dict.
        extent: ``none``: that files are there; ``headers``: and as large as the content says; ``full``: and decode.
        on_error: ``raise`` at the first bad file, or ``skip``.

    Raises:
        InputError: a bad file, a folder that is missing, or no image left.
    """
    if extent not in ("headers", "full", "none"):
        raise InputError(f"{extent!r} is not a choice", "data.check_images", "use headers, full or none")
    if not images.folder.is_dir():
        raise InputError(
            "folder of images is missing", str(images.folder), "check the path, or unpack the images there"
        )
    needed: dict[str, tuple[tuple[int, int], bool]] = {}  # right and bottom by file, and whether it is cut
    for row in content["images"]:
        corner = row.get("corner")
        right, bottom = (row["width"], row["height"]) if corner is None else corner[2:]
        before, _ = needed.get(row["file_name"], ((0, 0), False))
        needed[row["file_name"]] = ((max(right, before[0]), max(bottom, before[1])), corner is not None)
    names = list(needed)
    present = list_files(images.folder, names)

    def check(index: int) -> None:
        name = names[index]
        if name not in present:
            remedy = "add the file or remove the record, or set data.on_error=skip"
            raise InputError("image file is missing", str(images.folder / name), remedy)
        if extent == "none":
            return
        height, width = images.load(name).shape[1:] if extent == "full" else images.size(name)
        (right, bottom), cut = needed[name]
        if (right > width or bottom > height) if cut else (right, bottom) != (width, height):
            raise _wrong_size(str(images.folder / name), (height, width), (right, bottom), cut)

    bad = {names[i]: error for i, error in find_faults(check, len(names), on_error).items()}
    if not bad:
        return dict(content), []
    kept = [row for row in content["images"] if row["file_name"] not in bad]
    ids = {row["id"] for row in kept}
    if not kept:
        raise InputError("no image is left", str(images.folder), "correct the files that were skipped")
    annotations = [row for row in content["annotations"] if row["image_id"] in ids]
    lines = [f"{error.where}: {error.what}" for error in bad.values()]
    return {**content, "images": kept, "annotations": annotations}, lines


def _wrong_size(where: str, size: tuple[int, int], needed: tuple[int, int], cut: bool) -> InputError:
    what = (
        f"image is {size[1]}x{size[0]} pixels, its annotation says {'at least ' if cut else ''}{needed[0]}x{needed[1]}"
    )
    return InputError(what, where, "correct the annotation's size and boxes, or set data.on_error=skip")


def _records(
    content: Mapping[str, Any], index_of: Mapping[int, int], train: bool, drop_ignore: bool, min_gt_size: float
) -> list[DetectionRecord]:
    rows = content["annotations"]
    place = {image["id"]: i for i, image in enumerate(content["images"])}
    of_image = np.array([place[row["image_id"]] for row in rows], np.int64)
    order = np.argsort(of_image, kind="stable")
    rows, of_image = [rows[i] for i in order], of_image[order]
    limits = np.array([(image["width"], image["height"]) * 2 for image in content["images"]], np.float64)[of_image]
    boxes = np.clip(to_xyxy([row["bbox"] for row in rows]), 0, limits)
    sides = boxes[:, 2:] - boxes[:, :2]
    crowd = np.array([bool(row.get("iscrowd")) for row in rows], np.bool_)
    ignored = np.array([bool(row.get("ignore")) for row in rows], np.bool_)
    given = (row.get("area") for row in rows)
    area = np.array(
        [a if isinstance(a, int | float) else side for a, side in zip(given, sides.prod(axis=1).tolist())], np.float64
    )
    used = np.ones(len(rows), np.bool_)
    if train:
        used = ~crowd & (sides >= 1).all(axis=1) & (area > 0) & ~(ignored & drop_ignore)
        crowd, ignored = np.zeros_like(crowd), np.zeros_like(ignored)
    columns: dict[str, np.ndarray] = {
        "boxes": boxes.astype(np.float32),
        "labels": np.array([index_of[row["category_id"]] for row in rows], np.int64),
        "ids": np.array([row["id"] for row in rows], np.int64),
        "iscrowd": crowd | ignored,
        "area": area.astype(np.float32),
    }
    bounds = np.searchsorted(of_image, np.arange(len(place) + 1)).tolist()
    records = []
    for image, start, end in zip(content["images"], bounds, bounds[1:]):
        chosen = np.flatnonzero(used[start:end]) + start
        if train and start == end:
            continue
        if train and min_gt_size > 0 and not (sides[chosen] > min_gt_size).any():
            continue
        fields: dict[str, Any] = {name: column[chosen] for name, column in columns.items()}
        size = (int(image["width"]), int(image["height"]))
        records.append(DetectionRecord(image["file_name"], *size, image["id"], **fields))
    return records
