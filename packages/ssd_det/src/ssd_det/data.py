"""The data of a run: generated shapes, COCO or VOC, with noise on the training boxes where the configuration says so."""

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


def build_datasets(data: Any, seed: int = 0) -> tuple[DetectionDataset, DetectionDataset]:
    """Training set (noisy, if the configuration asks for it) and evaluation set (clean) of a ``data`` configuration.

    Raises:
        InputError: unknown format, or whatever the readers find in the files.
    """
    if data.format == "generated":
        options: dict[str, Any] = {
            "image_size": tuple(data.image_size),
            "num_objects": tuple(data.num_objects),
            "object_size": tuple(data.object_size),
            "max_iou": data.max_iou,
        }
        train: DetectionDataset = GeneratedShapes(data.train_images, seed=2 * data.seed, **options)
        val: DetectionDataset = GeneratedShapes(data.val_images, seed=2 * data.seed + 1, **options)
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
        val = CocoDetection(root / data.val_images, root / data.val_annotations, on_error=data.on_error)
    elif data.format == "voc":
        root = _root(data)
        classes = list(data.classes) if data.classes else None
        val = VocDetection(root, data.val_split, classes=classes, on_error=data.on_error)
        if data.train_annotations:
            train = CocoDetection(root / "JPEGImages", data.train_annotations, on_error=data.on_error)
        else:
            train = VocDetection(root, data.train_split, classes=classes, on_error=data.on_error)
    else:
        raise InputError(f"unknown format {data.format!r}", "data.format", "use generated, coco or voc")
    if train.classes != val.classes:
        raise InputError(
            f"training classes {list(train.classes)} differ from evaluation classes {list(val.classes)}",
            f"data.format={data.format}",
            "use annotation files with the same categories",
        )
    return (with_noise(train, data.noise, data.noise_seed) if data.noise else train), val


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


def _root(data: Any) -> Path:
    if not data.root:
        raise InputError("no folder given", "data.root", "add data.root=/path/to/the/data")
    root = Path(data.root)
    if not root.is_dir():
        raise InputError("no such folder", f"data.root={root}", "point data.root to the folder that holds the data")
    return root
