"""The data of a detection run: generated shapes, COCO or VOC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vireo.data import (
    CocoDetection,
    Compose,
    DetectionDataset,
    GeneratedShapes,
    Loader,
    RandomHorizontalFlip,
    VocDetection,
    aspect_ratio_groups,
)
from vireo.data.image_sets import VAL_SEED, require_batch
from vireo.detection.transforms import LargeScaleJitter, RandomWindow
from vireo.errors import InputError

FORMATS = ("generated", "coco", "voc")


def has_masks(data: Any) -> bool:
    """Whether a ``data`` configuration is read with masks: ``masks`` says so, or where it is ``auto`` the format.

    Raises:
        InputError: another value, or masks of a format that has none.
    """
    wanted = data.get("masks", "auto")
    if wanted not in ("auto", True, False):
        raise InputError(f"{wanted!r} is not a choice", "data.masks", "use auto, true or false")
    if wanted is True and data.format == "voc":
        raise InputError("the format voc has no masks", "data.masks", "use generated or coco, or masks=false")
    return bool(data.format != "voc" if wanted == "auto" else wanted)


def build_sets(data: Any) -> tuple[DetectionDataset, DetectionDataset]:
    """Training and evaluation set of a ``data`` configuration, with masks where :func:`has_masks`.

    Raises:
        InputError: an unknown format, no ``root``, different classes, or files that cannot be used.
    """
    if data.format not in FORMATS:
        raise InputError(f"unknown format {data.format!r}", "data.format", f"use one of {', '.join(FORMATS)}")
    masks = has_masks(data)
    if data.format == "generated":
        shapes: dict[str, Any] = {"image_size": tuple(data.image_size), "object_size": tuple(data.object_size)}
        shapes |= {"class_colours": True, "masks": masks}
        generated = GeneratedShapes(data.train_images, seed=data.seed, **shapes)
        return generated, GeneratedShapes(data.val_images, seed=data.seed + VAL_SEED, **shapes)
    if data.root is None:
        raise InputError("has no value", "data.root", "give the folder of the data with data.root=DIR")
    root = Path(data.root)
    train: DetectionDataset
    val: DetectionDataset
    if data.format == "voc":
        train, val = (VocDetection(root, split, on_error=data.on_error) for split in (data.train_split, data.val_split))
    else:
        common: dict[str, Any] = {"on_error": data.on_error, "masks": masks}
        folder, annotations = root / data.train_split, root / data.train_annotations
        train = CocoDetection(folder, annotations, min_box=1.0, drop_empty=True, **common)
        val = CocoDetection(root / data.val_split, root / data.val_annotations, **common)
    if train.classes != val.classes:
        what = "training and evaluation set have different classes"
        raise InputError(what, "data.val_annotations", "use annotation files with the same categories")
    return train, val


def build_loader(
    dataset: DetectionDataset,
    data: Any,
    train: bool,
    jitter_size: int | None = None,
    **here: Any,
) -> Loader:
    """Batches of lists of images ``(3, H, W)`` in [0, 1], not yet resized; training flips half of them.

    Args:
        dataset: see :func:`build_sets`.
        data: configuration: ``batch_size`` over all processes, ``eval_batch_size`` of each, ``workers``, ``on_error``;
            where it has ``window_share``, so many training samples are cut by :class:`~vireo.detection.RandomWindow`;
            where it has ``scale_jitter``, two factors, all are by :class:`~vireo.detection.LargeScaleJitter`.
        train: shuffle, flip, cut, leave out a last batch that is not full.
        jitter_size: side in pixels of which the factors are.
        **here: device, rank, world size and seed.
    """
    require_batch(len(dataset), data.batch_size, train, "data.batch_size")
    sizes = np.array([dataset.image_size(i) for i in range(len(dataset))])
    return Loader(
        dataset,
        batch_size=data.batch_size if train else data.eval_batch_size * here["world_size"],
        shuffle=train,
        drop_last=train,
        transform=_augmentation(data, jitter_size) if train else None,
        device_transform=lambda images, targets: ([image.float() / 255 for image in images], targets),
        groups=aspect_ratio_groups(sizes) if train else None,
        workers=data.workers,
        on_error=data.on_error,
        **here,
    )


def _augmentation(data: Any, jitter_size: int | None) -> Callable[..., Any]:
    steps: list[Callable[..., Any]] = [RandomHorizontalFlip()]
    if share := data.get("window_share"):
        steps.append(RandomWindow(share))
    if scales := data.get("scale_jitter"):
        assert jitter_size is not None, "jitter is of a size"
        steps.append(LargeScaleJitter(jitter_size, tuple(scales)))
    return Compose(*steps)
