"""The data of a run: generated shapes, COCO or VOC, with noise on the training boxes if the configuration says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vireo.data import (
    CocoDetection,
    DetectionDataset,
    GeneratedShapes,
    Loader,
    NormalizePad,
    VocDetection,
    aspect_ratio_groups,
    detection_transforms,
)
from vireo.data.files import FileDataset
from vireo.errors import InputError

from .noise import OFFICIAL_SEED, perturb_boxes

MIN_TRAINING_SIDE = 32  # smaller images, and in COCO images without annotation, are left out of training


def with_noise(dataset: DetectionDataset, level: float, seed: int = OFFICIAL_SEED) -> DetectionDataset:
    """The data set with noisy ``boxes`` and the given ones as ``true_boxes``, by the protocol of :mod:`ssd_det.noise`.

    Crowd (difficult) boxes are not perturbed. Draws are consumed image by image, box by box, in the order of the
    records, so this equals reading a file written by ``ssd-det-noise`` with the same level and seed.

    Raises:
        InputError: ``level`` outside [0, 1), or boxes that are noisy already.
    """
    if any(record.true_boxes is not None for record in dataset.records):
        raise InputError(
            "the boxes are noisy already (the file has true_bbox)", "data.noise", "set data.noise=0 for such a file"
        )
    rng = np.random.RandomState(seed)
    records = []
    for record in dataset.records:
        keep = ~record.iscrowd
        boxes = record.boxes.copy()
        boxes[keep] = perturb_boxes(record.boxes[keep], (record.height, record.width), level, rng)
        records.append(replace(record, boxes=boxes, true_boxes=record.boxes))
    return dataset.with_records(records)


def build_datasets(data: Any) -> tuple[DetectionDataset, DetectionDataset]:
    """Training set (noisy, if the configuration asks for it) and evaluation set (clean) of a ``data`` configuration.

    Raises:
        InputError: unknown format, or whatever the readers find in the files.
    """
    train, val = build_training_set(data), build_evaluation_set(data)
    if train.classes != val.classes:
        raise InputError(
            f"training classes {list(train.classes)} differ from evaluation classes {list(val.classes)}",
            f"data.format={data.format}",
            "use annotation files with the same categories",
        )
    return train, val


def build_training_set(data: Any) -> DetectionDataset:
    """The training set of a ``data`` configuration, noisy if it asks for that."""
    train: DetectionDataset
    if data.format == "generated":
        train = GeneratedShapes(data.train_images, seed=2 * data.seed, **_shapes(data))
    elif data.format == "coco":
        root = _root(data)
        train = CocoDetection(
            root / data.train_images,
            root / data.train_annotations,
            on_error=data.on_error,
            min_size=MIN_TRAINING_SIDE,
            min_box=1.0,
            drop_empty=data.drop_empty,
        )
    elif data.format == "voc" and data.train_annotations:
        train = CocoDetection(_root(data) / "JPEGImages", _root(data) / data.train_annotations, on_error=data.on_error)
    elif data.format == "voc":
        train = VocDetection(_root(data), data.train_split, classes=data.classes, on_error=data.on_error)
    else:
        raise _unknown_format(data)
    return _with_checked_images(with_noise(train, data.noise, data.noise_seed) if data.noise else train, data)


def build_evaluation_set(data: Any) -> DetectionDataset:
    """The evaluation set of a ``data`` configuration."""
    val: DetectionDataset
    if data.format == "generated":
        val = GeneratedShapes(data.val_images, seed=2 * data.seed + 1, **_shapes(data))
    elif data.format == "coco":
        root = _root(data)
        val = CocoDetection(root / data.val_images, root / data.val_annotations, on_error=data.on_error)
    elif data.format == "voc":
        val = VocDetection(_root(data), data.val_split, classes=data.classes, on_error=data.on_error)
    else:
        raise _unknown_format(data)
    return _with_checked_images(val, data)


def build_loader(
    dataset: DetectionDataset, data: Any, *, train: bool, seed: int, device: Any, rank: int = 0, world_size: int = 1
) -> Loader:
    """Batches of normalised, padded images on the device; training batches are shuffled and of one orientation."""
    sizes = np.array([dataset.image_size(i) for i in range(len(dataset))])
    return Loader(
        dataset,
        batch_size=data.batch_size if train else data.eval_batch_size * world_size,
        shuffle=train,
        seed=seed,
        transform=detection_transforms(train, data.short_side, data.long_side, data.flip),
        device_transform=NormalizePad(),
        device=device,
        workers=data.workers,
        rank=rank,
        world_size=world_size,
        drop_last=train,
        groups=aspect_ratio_groups(sizes) if train else None,
        on_error=data.on_error,
    )


def _shapes(data: Any) -> dict[str, Any]:
    return {
        "image_size": tuple(data.image_size),
        "num_objects": tuple(data.num_objects),
        "object_size": tuple(data.object_size),
        "max_iou": data.max_iou,
        "class_colours": data.class_colours,
    }


def _with_checked_images(dataset: DetectionDataset, data: Any) -> DetectionDataset:
    """The data set once its image files are known to be there and as large as they should be, as far as asked for."""
    extent = data.get("check_images", "none")
    if extent not in ("headers", "full", "none"):
        raise InputError(f"{extent!r} is not a choice", "data.check_images", "use headers, full or none")
    if isinstance(dataset, FileDataset) and extent != "none":
        dataset.check_images(decode=extent == "full")
    return dataset


def _unknown_format(data: Any) -> InputError:
    return InputError(f"unknown format {data.format!r}", "data.format", "use generated, coco or voc")


def _root(data: Any) -> Path:
    if not data.root:
        raise InputError("no folder given", "data.root", "add data.root=/path/to/the/data")
    root = Path(data.root)
    if not root.is_dir():
        raise InputError("no such folder", f"data.root={root}", "point data.root to the folder that holds the data")
    return root
