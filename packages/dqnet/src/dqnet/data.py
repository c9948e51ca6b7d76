"""The data of a run: generated camouflage, folders of images and masks, or the sets of camouflaged object detection."""

from __future__ import annotations

from typing import Any

from vireo.data.image_sets import require_batch
from vireo.data.loader import Loader
from vireo.errors import InputError

from .camouflage import GeneratedCamouflage
from .mask_dataset import MaskDataset
from .transforms import FlipRotate, StackImages

FORMATS = ("camouflage", "folders", "cod")


def build_dataset(data: Any, *, train: bool) -> MaskDataset:
    """Training or evaluation set of a ``data`` configuration.

    Args:
        data: ``format``; for ``camouflage`` ``train_images``, ``val_images``, ``image_size``, ``seed`` and
            ``val_seed``.
        train: which of the two.

    Raises:
        InputError: an unknown format, no ``root``, or files that cannot be used.
    """
    if data.format not in FORMATS:
        raise InputError(f"unknown format {data.format!r}", "data.format", f"use one of {', '.join(FORMATS)}")
    count, seed = (data.train_images, data.seed) if train else (data.val_images, data.val_seed)
    return GeneratedCamouflage(count, data.image_size, seed)


def build_loader(dataset: MaskDataset, data: Any, image_size: int, *, train: bool, **here: Any) -> Loader:
    """The loader of a ``data`` configuration.

    Batches are ``(images, targets)`` with float32 images ``(B, 3, image_size, image_size)``, normalised. In training
    targets are a dict: ``mask`` float32 ``(B, 1, image_size, image_size)`` in [0, 1], ``index`` and ``key`` int64
    ``(B,)``. In evaluation they are a list of the samples' own: ``mask`` uint8 ``(H, W)`` as stored, ``index``.

    Args:
        dataset: images and masks.
        data: ``flip``, ``vertical_flip``, ``rotate`` (``p``, ``limit``), ``batch_size`` over all processes,
            ``eval_batch_size`` of each, ``workers``, ``on_error``.
        image_size: S, of the network.
        train: shuffle, augment, leave out a last batch that is not full.
        **here: ``device``, ``rank``, ``world_size`` and ``seed``.

    Raises:
        InputError: a batch that the processes cannot share, too few images for one, or values out of range.
    """
    common: dict[str, Any] = {"workers": data.workers, "on_error": data.on_error, **here}
    common["device_transform"] = StackImages(image_size, train)
    if not train:
        return Loader(dataset, batch_size=data.eval_batch_size * here.get("world_size", 1), shuffle=False, **common)
    require_batch(len(dataset), data.batch_size, train, "data.batch_size")
    transform = FlipRotate(data.flip, data.vertical_flip, data.rotate.p, data.rotate.limit)
    return Loader(dataset, batch_size=data.batch_size, shuffle=True, drop_last=True, transform=transform, **common)
