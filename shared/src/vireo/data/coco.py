"""Reader of COCO detection json (https://cocodataset.org/#format-data), checked as a whole before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireo.data.coco_json import is_number, read_annotations, read_categories, read_images, read_json
from vireo.data.files import FileDataset
from vireo.data.records import DetectionRecord, FaultLog, OnError, check_boxes, note, overhang
from vireo.errors import InputError

_OVERHANG = 1.0  # pixels by which annotation tools commonly overshoot the border; more than that earns a note


class CocoDetection(FileDataset):
    """COCO json and a folder of images.

    ``iscrowd`` and ``ignore`` annotations are kept with ``iscrowd`` set. Boxes that stick out of their image are
    clipped (``notes`` counts those beyond one pixel). Classes are in the order of their category ids; samples, and the
    boxes of a sample, in the order of the file. ``true_bbox``, where the file has it, is for monitoring only.

    Args:
        images_dir: folder that the ``file_name`` entries are relative to.
        annotation_file: COCO json.
        on_error: ``"raise"`` at the first fault, or ``"skip"``: leave out every bad image and annotation, and list it
            in ``skipped``.
        min_size: leave out images with a side below this many pixels.
        min_box: leave out boxes with a side below this many pixels. COCO train 2017 has two boxes of no height, which
            are faults unless this is above 0.
        drop_empty: leave out images without any annotation; else they are negatives.
        allow_empty: accept a file without annotations, for prediction.
        masks: read ``segmentation`` and give ``masks``.

    Raises:
        InputError: for the first fault, naming file, record and remedy.
    """

    def __init__(
        self,
        images_dir: str | Path,
        annotation_file: str | Path,
        *,
        on_error: OnError = "raise",
        min_size: int = 0,
        min_box: float = 0.0,
        drop_empty: bool = False,
        allow_empty: bool = False,
        masks: bool = False,
    ) -> None:
        file = str(annotation_file)
        faults = FaultLog(on_error)
        content = read_json(Path(annotation_file))
        classes = read_categories(content, file)
        index_of = {number: index for index, number in enumerate(classes)}
        images, known = read_images(content, file, Path(images_dir), faults)
        rows = read_annotations(content, file, images, known, index_of, faults, masks, allow_empty)
        records, notes = _build_records(rows, images, index_of, file, faults, min_box, masks)

        too_small = [record.file_name for record in records if min(record.width, record.height) < min_size]
        notes += note(f"images with a side under {min_size} px left out", too_small)
        records = [record for record in records if min(record.width, record.height) >= min_size]
        if drop_empty:
            notes += note("images without annotation left out", [r.file_name for r in records if not len(r)])
            records = [record for record in records if len(record)]
        if not records:
            raise InputError("no image is left", file, "Correct the file, or loosen min_size and drop_empty")
        if not allow_empty and not any(map(len, records)):
            raise InputError("no usable annotation is left", file, "Correct the records that were skipped")
        super().__init__(
            images_dir,
            tuple(classes.values()),
            tuple(classes),
            records,
            on_error=on_error,
            skipped=faults.lines,
            notes=notes,
        )
        self.masks = masks

    def load_masks(self, index: int) -> Tensor | None:
        """``uint8 (N, H, W)`` of 0 and 1 with ``masks=True``, else None."""
        record = self.records[index]
        if not self.masks or record.segmentations is None:
            return None
        return segmentation_masks(record.segmentations, record.height, record.width)


def segmentation_masks(segmentations: tuple[Any, ...], height: int, width: int) -> Tensor:
    """COCO polygons and run lengths as ``uint8 (n, height, width)`` masks."""
    from pycocotools import mask as coco_mask

    masks = np.zeros((len(segmentations), height, width), np.uint8)
    for i, segmentation in enumerate(segmentations):
        runs = segmentation
        if isinstance(segmentation, list):
            runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            runs = coco_mask.frPyObjects(segmentation, height, width)
        masks[i] = coco_mask.decode(runs)
    return torch.from_numpy(masks)


def _build_records(
    rows: list[dict[str, Any]],
    images: dict[int, dict[str, Any]],
    index_of: dict[int, int],
    file: str,
    faults: FaultLog,
    min_box: float,
    masks: bool,
) -> tuple[list[DetectionRecord], list[str]]:
    """Records of all ``images``, and notes; geometry is checked here, for all boxes at once."""

    def where(row: int) -> str:
        return f"{file}: annotation {rows[row]['id']} of image {images[rows[row]['image_id']]['file_name']!r}"

    position = {image_id: i for i, image_id in enumerate(images)}
    sizes = np.array([(image["width"], image["height"]) for image in images.values()], np.float64).reshape(-1, 2)
    of_image = np.array([position[row["image_id"]] for row in rows], np.int64)
    unclipped = _corners(rows, "bbox")
    boxes, wrong = check_boxes(unclipped, sizes[of_image], min_box)
    true_boxes = None
    if any("true_bbox" in row for row in rows):
        true_boxes, true_wrong = check_boxes(_corners(rows, "true_bbox"), sizes[of_image])
        wrong = [what or (true and f"true {true}") for what, true in zip(wrong, true_wrong)]
    usable = np.ones(len(rows), bool)
    for i, what in enumerate(wrong):
        if what is not None:
            faults.report(what, where(i))
            usable[i] = False

    small = usable & ((boxes[:, 2:] - boxes[:, :2]) < min_box).any(axis=1)
    usable &= ~small
    beyond = usable & (overhang(unclipped, boxes) > _OVERHANG)
    notes = note(f"boxes with a side under {min_box:g} px left out", [where(i) for i in np.flatnonzero(small).tolist()])
    notes += note("boxes that stuck out of their image clipped", [where(i) for i in np.flatnonzero(beyond).tolist()])

    kept = np.flatnonzero(usable)
    kept = kept[np.argsort(of_image[kept], kind="stable")]
    chosen = [rows[i] for i in kept.tolist()]
    columns: dict[str, np.ndarray] = {
        "boxes": boxes[kept].astype(np.float32),
        "labels": np.array([index_of[row["category_id"]] for row in chosen], np.int64),
        "ids": np.array([row["id"] for row in chosen], np.int64),
        "iscrowd": np.array([bool(row.get("iscrowd")) or bool(row.get("ignore")) for row in chosen], np.bool_),
        "area": _areas(chosen, boxes[kept]),
    }
    if true_boxes is not None:
        columns["true_boxes"] = true_boxes[kept].astype(np.float32)
    bounds = np.searchsorted(of_image[kept], np.arange(len(images) + 1)).tolist()
    records = []
    for image, start, end in zip(images.values(), bounds, bounds[1:]):
        fields: dict[str, Any] = {name: column[start:end] for name, column in columns.items()}
        segmentations = tuple(row["segmentation"] for row in chosen[start:end]) if masks else None
        records.append(
            DetectionRecord(
                image["file_name"], image["width"], image["height"], image["id"], **fields, segmentations=segmentations
            )
        )
    return records, notes


def _corners(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    """float64 ``(n, 4)`` xyxy of the xywh boxes under ``key``, or ``bbox`` where an annotation lacks it."""
    boxes = np.array([row.get(key, row["bbox"]) for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _areas(rows: list[dict[str, Any]], boxes: np.ndarray) -> np.ndarray:
    """float32 ``(n,)``: the object's area where the file has a usable one, else its box's."""
    sides = boxes[:, 2:] - boxes[:, :2]
    given = np.array([area if is_number(area := row.get("area")) else np.nan for row in rows], np.float64)
    return np.where(np.isfinite(given) & (given >= 0), given, sides[:, 0] * sides[:, 1]).astype(np.float32)
