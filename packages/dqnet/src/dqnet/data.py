"""The data of a run: generated camouflage, folders of images and masks, or the sets of camouflaged object detection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vireo.data.image_sets import require_batch
from vireo.data.loader import Loader
from vireo.errors import InputError

from .camouflage import GeneratedCamouflage
from .mask_dataset import MaskDataset
from .mask_files import MaskFolders, pair_folders
from .transforms import FlipRotate, StackImages

FORMATS = ("camouflage", "folders", "cod")
CHECKS = ("none", "headers", "full")
TRAIN_SEED = 100  # added to that of a configuration: section 10 of the notes numbers the generators so


def build_dataset(data: Any, *, train: bool) -> MaskDataset:
    """Training or evaluation set of a ``data`` configuration.

    Args:
        data: ``format``; for ``camouflage`` ``train_images``, ``val_images``, ``image_size``, ``seed`` and
            ``val_seed``. For files ``root``, ``on_error`` and ``check_images``, and with ``folders`` also ``train`` and
            ``val``, each with ``images``, ``masks`` and ``names`` relative to the root; with ``cod`` ``test_set``.
        train: which of the two.

    Raises:
        InputError: an unknown format, no ``root``, or files that cannot be used.
    """
    if data.format not in FORMATS:
        raise InputError(f"unknown format {data.format!r}", "data.format", f"use one of {', '.join(FORMATS)}")
    if data.format == "camouflage":
        return _generated(data, train)
    if data.root is None:
        raise InputError("has no value", "data.root", "give the folder of the data with data.root=DIR")
    if data.check_images not in CHECKS:
        raise InputError(f"{data.check_images!r} is not a choice", "data.check_images", f"use {', '.join(CHECKS)}")
    if data.format == "folders":
        root, part = Path(data.root), data.train if train else data.val
        names = None if part.names is None else root / part.names
        pairs = pair_folders(root / part.images, root / part.masks, names=names, on_error=data.on_error)
    else:
        from .cod import cod_test, cod_train

        pairs = cod_train(data.root, data.on_error) if train else cod_test(data.root, data.test_set, data.on_error)
    dataset = MaskFolders(pairs, data.on_error)
    if data.check_images != "none":
        dataset.check_images(decode=data.check_images == "full")
    return dataset


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


def _generated(data: Any, train: bool) -> GeneratedCamouflage:
    seed = TRAIN_SEED + data.seed
    if seed == data.val_seed:
        what = f"training and evaluation pictures would be the same, those of seed {seed}"
        raise InputError(what, "data.seed", f"use another than {data.seed}, or another data.val_seed")
    count, seed = (data.train_images, seed) if train else (data.val_images, data.val_seed)
    return GeneratedCamouflage(count, data.image_size, seed)
