"""Detection records: what is known of an image before it is decoded, checked once, in the same way for every reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vireo.errors import InputError

OnError = Literal["raise", "skip"]
Sample = tuple[Tensor, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class DetectionRecord:
    """The annotations of one image.

    Attributes:
        file_name: relative to the image folder.
        width, height: pixels of the upright image.
        image_id: unique in the data set.
        boxes: float32 ``(n, 4)``, xyxy in absolute pixels, inside the image, with an area.
        labels: int64 ``(n,)``, class indices from 0.
        ids: int64 ``(n,)``, annotation ids.
        iscrowd: bool ``(n,)``, COCO's crowd and ignore, VOC's difficult: ignored in training and evaluation.
        area: float32 ``(n,)``, pixels; of the object where the file gives it, else of the box.
        true_boxes: float32 ``(n, 4)`` or None: the boxes before noise, for monitoring only.
        segmentations: per box COCO polygons or run lengths, or None; None where masks are not read.
    """

    file_name: str
    width: int
    height: int
    image_id: int
    boxes: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    iscrowd: np.ndarray
    area: np.ndarray
    true_boxes: np.ndarray | None = None
    segmentations: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, index: int) -> str:
        """How messages name box ``index``."""
        return f"annotation {self.ids[index]} of image {self.file_name!r}"


class FaultLog:
    """Raises the first fault (``on_error="raise"``) or collects all of them as lines (``"skip"``)."""

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"{on_error!r} is not a choice", "data.on_error", "Use 'raise' or 'skip'")
        self.on_error = on_error
        self.lines: list[str] = []

    def report(self, what: str, where: str, remedy: str = "Correct the record, or set data.on_error=skip") -> None:
        """Raise :class:`InputError`, or note that the record at ``where`` is left out."""
        if self.on_error == "raise":
            raise InputError(what, where, remedy)
        self.lines.append(f"{where}: {what}")


def find_faults(
    check: Callable[[int], object], count: int, on_error: OnError, workers: int = 4
) -> dict[int, InputError]:
    """Check the samples 0 to ``count`` - 1 of a data set, several at a time.

    Args:
        check: raises :class:`InputError` for a bad one; called in threads.
        count: of samples.
        on_error: ``"raise"`` stops at the first bad one.
        workers: threads.

    Returns:
        The errors by index, in rising order.

    Raises:
        InputError: that of the first bad sample, with ``on_error="raise"``.
    """

    def fault(index: int) -> InputError | None:
        try:
            check(index)
        except InputError as error:
            return error
        return None

    found: dict[int, InputError] = {}
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for index, error in enumerate(pool.map(fault, range(count))):
            if error is None:
                continue
            if on_error == "raise":
                pool.shutdown(cancel_futures=True)
                raise error
            found[index] = error
    return found


def check_boxes(boxes: np.ndarray, sizes: np.ndarray, min_side: float = 0.0) -> tuple[np.ndarray, list[str | None]]:
    """Clip boxes to their images and find those that cannot be used.

    Args:
        boxes: float64 ``(n, 4)`` xyxy, absolute pixels, before clipping.
        sizes: ``(n, 2)`` width and height of each box's image.
        min_side: sides below this are left to the caller to filter: a side of 0 is then no fault.

    Returns:
        The clipped boxes ``(n, 4)``, and per box what is wrong with it, or None. A box that sticks out is clipped; one
        of which nothing remains inside is a fault, like a non-finite one and one without width or height.
    """
    width_height = boxes[:, 2:] - boxes[:, :2]
    clipped = np.clip(boxes, 0, np.concatenate([sizes, sizes], axis=1))
    finite = np.isfinite(boxes).all(axis=1)
    has_area = ((width_height >= 0) if min_side > 0 else (width_height > 0)).all(axis=1)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1) | (width_height == 0).any(axis=1)
    faults: list[str | None] = [None] * len(boxes)
    for i in np.flatnonzero(~(finite & has_area & inside)).tolist():
        x, y = (f"{value:g}" for value in boxes[i, :2])
        w, h = (f"{value:g}" for value in width_height[i])
        if not finite[i]:
            faults[i] = f"box is not finite (x={x}, y={y}, w={w}, h={h})"
        elif not has_area[i]:
            faults[i] = f"box has no area (w={w}, h={h})"
        else:
            faults[i] = f"box (x={x}, y={y}, w={w}, h={h}) lies outside its {sizes[i, 0]:g}x{sizes[i, 1]:g} image"
    return clipped, faults


def overhang(boxes: np.ndarray, clipped: np.ndarray) -> np.ndarray:
    """Per box, by how many pixels at most clipping moved a side; ``(n,)``."""
    moved: np.ndarray = np.abs(boxes - clipped).max(axis=1, initial=0.0)
    return moved


def note(what: str, examples: Sequence[str]) -> list[str]:
    """A line for ``dataset.notes`` on what was mended or filtered, or none where it happened nowhere."""
    return [f"{len(examples)} {what} (first: {examples[0]})"] if examples else []


class DetectionDataset(Dataset[Sample]):
    """Base of the detection data sets: a list of records, and a way to the pixels of each.

    A sample is ``(image, target)``: image ``uint8 (3, H, W)`` RGB; target a dict with ``boxes`` float32 ``(N, 4)``
    xyxy, ``labels`` int64 ``(N,)``, ``ids`` int64, ``iscrowd`` bool, ``area`` float32, ``image_id``, ``orig_size`` and
    ``size`` as ``(H, W)``, ``scale`` 1.0, and where they are known ``true_boxes`` ``(N, 4)`` and ``masks`` uint8
    ``(N, H, W)``.

    Attributes:
        classes: class names by index.
        category_ids: COCO category id by class index.
        records: one record per sample.
        skipped: what ``on_error="skip"`` left out, one line each.
        notes: what was clipped or filtered, one line each.
    """

    def __init__(
        self,
        classes: Sequence[str],
        category_ids: Sequence[int],
        records: list[DetectionRecord],
        *,
        skipped: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> None:
        self.classes, self.category_ids = tuple(classes), tuple(category_ids)
        self.records = records
        self.skipped, self.notes = list(skipped), list(notes)

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, H, W)`` RGB."""
        raise NotImplementedError

    def load_masks(self, index: int) -> Tensor | None:
        """``uint8 (N, H, W)`` of 0 and 1, or None where the data set has no masks."""
        return None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        size = (record.height, record.width)
        target: dict[str, Any] = {
            "boxes": torch.tensor(record.boxes),
            "labels": torch.tensor(record.labels),
            "ids": torch.tensor(record.ids),
            "iscrowd": torch.tensor(record.iscrowd),
            "area": torch.tensor(record.area),
            "image_id": record.image_id,
            "orig_size": size,
            "size": size,
            "scale": 1.0,
        }
        if record.true_boxes is not None:
            target["true_boxes"] = torch.tensor(record.true_boxes)
        masks = self.load_masks(index)
        if masks is not None:
            target["masks"] = masks
        return self.load_image(index), target

    def image_size(self, index: int) -> tuple[int, int]:
        """``(H, W)`` of sample ``index`` without decoding it."""
        record = self.records[index]
        return record.height, record.width

    def with_records(self, records: list[DetectionRecord]) -> Self:
        """The same data set over other records of its images: a subset, or boxes with noise."""
        other = copy(self)
        other.records = records
        return other

    def coco(self) -> dict[str, Any]:
        """The ground truth as a COCO json dict: ``bbox`` xywh in pixels, ``true_bbox`` where true boxes are known."""
        annotations = []
        for record in self.records:
            columns = zip(
                record.ids.tolist(),
                record.labels.tolist(),
                _xywh(record.boxes),
                _round(record.area).tolist(),
                record.iscrowd.tolist(),
            )
            true = None if record.true_boxes is None else _xywh(record.true_boxes)
            for i, (ann_id, label, box, area, crowd) in enumerate(columns):
                annotation = {
                    "id": ann_id,
                    "image_id": record.image_id,
                    "category_id": self.category_ids[label],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
                if true is not None:
                    annotation["true_bbox"] = true[i]
                if record.segmentations is not None and record.segmentations[i] is not None:
                    annotation["segmentation"] = record.segmentations[i]
                annotations.append(annotation)
        images = [
            {"id": record.image_id, "file_name": record.file_name, "width": record.width, "height": record.height}
            for record in self.records
        ]
        categories = [{"id": number, "name": name} for number, name in zip(self.category_ids, self.classes)]
        return {"images": images, "annotations": annotations, "categories": categories}


def _round(values: np.ndarray) -> np.ndarray:
    """float64 of float32 values; those that came from a number of two decimals, as COCO writes them, get it back."""
    exact = values.astype(np.float64)
    rounded = np.round(exact, 2)
    return np.where(np.abs(exact - rounded) <= 1e-7 * np.maximum(np.abs(exact), 512), rounded, exact)


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    corners = _round(boxes)
    sized = np.concatenate([corners[:, :2], np.round(corners[:, 2:] - corners[:, :2], 9)], axis=1)
    rows: list[list[float]] = sized.tolist()
    return rows
