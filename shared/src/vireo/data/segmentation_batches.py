"""Batches of segmentation data."""

from __future__ import annotations

from typing import Any

from vireo.data.loader import Loader
from vireo.data.segmentation import SegmentationDataset
from vireo.data.segmentation_transforms import NormalizeEach, RandomScaledCrop, ResizeImage, StackSegmentation
from vireo.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Compose, PhotometricDistort


def segmentation_loader(
    dataset: SegmentationDataset,
    data: Any,
    train: bool,
    mean: Any = IMAGENET_MEAN,
    std: Any = IMAGENET_STD,
    **here: Any,
) -> Loader:
    """The loader of a ``data`` configuration.

    In training, batches are crops: float32 ``(B, 3, *crop)`` and a dict with ``labels`` uint8 ``(B, *crop)``. In
    evaluation they are lists of normalised images of the test scale, and of targets whose labels have their own size.

    Args:
        dataset: images and labels.
        data: ``crop`` (height, width), ``short_side`` and ``long_side`` of the test scale, ``ratio`` of training to it,
            ``max_share``, ``flip``, ``distort``, ``batch_size`` over all processes, ``eval_batch_size`` of each,
            ``workers``, ``on_error``.
        train: shuffle, augment, leave out a last batch that is not full.
        mean, std: per channel, of 0 to 255.
        **here: ``device``, ``rank``, ``world_size`` and ``seed``.

    Raises:
        InputError: a batch that the processes cannot share, too few images for one, or values out of range.
    """
    common: dict[str, Any] = {"workers": data.workers, "on_error": data.on_error, **here}
    if not train:
        return Loader(
            dataset,
            batch_size=data.eval_batch_size * here["world_size"],
            shuffle=False,
            transform=ResizeImage(data.short_side, data.long_side),
            device_transform=NormalizeEach(mean, std),
            **common,
        )
    crop = (data.crop[0], data.crop[1])
    geometry = RandomScaledCrop(
        crop, data.short_side, data.long_side, tuple(data.ratio), max_share=data.max_share, flip=data.flip
    )
    stack = StackSegmentation(crop, mean, std)
    return Loader(
        dataset,
        batch_size=data.batch_size,
        shuffle=True,
        drop_last=True,
        transform=geometry,
        device_transform=Compose(*([PhotometricDistort()] if data.distort else []), stack),
        **common,
    )
