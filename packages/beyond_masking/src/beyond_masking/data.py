"""The data of a run: generated pictures, CIFAR's own files, or folders of images, and the loaders over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vireo.data import (
    ArrayLoader,
    BatchResizedCrop,
    Cifar,
    ClassificationDataset,
    Compose,
    GeneratedClasses,
    ImageFolder,
    ImageTree,
    Loader,
    Normalize,
    RandomErasing,
    RandomResizedCrop,
    finetune_transforms,
    per_class,
    stack_classification,
)
from vireo.data.recipes import RandAugment
from vireo.errors import InputError

FORMATS = ("generated", "cifar", "folder")
VAL_SEED = 1_000_003  # generated pictures of evaluation


def build_dataset(data: Any, *, train: bool, labels: bool = True) -> ClassificationDataset:
    """One of the sets of a data configuration.

    Args:
        data: the configuration.
        train: the training set, else the evaluation set.
        labels: False takes all images below the folder of the split, however they are sorted (pre-training).

    Raises:
        InputError: no ``root``, an unknown format, or files that cannot be used.
    """
    if data.format not in FORMATS:
        raise InputError(f"unknown format {data.format!r}", "data.format", f"use one of {', '.join(FORMATS)}")
    dataset: ClassificationDataset
    if data.format == "generated":
        count, seed = (data.train_images, data.seed) if train else (data.val_images, data.seed + VAL_SEED)
        options = {"noise": data.noise, "class_colours": data.class_colours}
        dataset = GeneratedClasses(count, tuple(data.image_size), seed, data.num_classes, **options)
    elif data.root is None:
        raise InputError("has no value", "data.root", "give the folder of the data with data.root=DIR")
    elif data.format == "cifar":
        dataset = Cifar(data.root, train, data.kind)
    else:
        size = tuple(data.image_size) if data.resident else None  # otherwise the workers crop
        split = data.train_split if train else data.val_split
        if labels:
            dataset = ImageFolder(data.root, split, data.on_error, size)
        else:
            dataset = ImageTree(Path(data.root) / split if split else data.root, data.on_error, size)
        if data.check_images != "none":
            dataset.check_images(workers=max(1, data.workers), decode=data.check_images == "full")
    count = data.train_per_class if train and labels else None
    return dataset if count is None else per_class(dataset, count)


def require_same_classes(train_set: ClassificationDataset, val_set: ClassificationDataset, where: str) -> None:
    """Check that two sets number the same classes.

    Raises:
        InputError: naming classes of one set only.
    """
    if train_set.classes != val_set.classes:
        only = sorted(set(train_set.classes) ^ set(val_set.classes))
        what = f"training and evaluation set have different classes ({len(only)} in one only: {', '.join(only[:5])})"
        raise InputError(what, where, "give both splits the same class folders")


def pretraining_loader(
    dataset: ClassificationDataset,
    data: Any,
    augmentation: Any,
    crop_size: int,
    *,
    train: bool = True,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
) -> ArrayLoader | Loader:
    """Batches ``(images float32 (B, 3, crop, crop) ImageNet-normalised, {"key", ...})`` on the device.

    Random resized crops and flips, in evaluation too: the keys make them the same each time. The last batch of a
    training epoch is left out if it is not full.

    Raises:
        InputError: fewer images than a batch has.
    """
    require_batch(len(dataset), data.batch_size, train, "data.batch_size")
    if data.resident and augmentation.interpolation != "bilinear":
        what = f"images that stay on the device are resized bilinearly, not {augmentation.interpolation}"
        raise InputError(what, "augmentation.interpolation", "use bilinear, or data.resident=false")
    common: dict[str, Any] = {
        "batch_size": data.batch_size,
        "shuffle": train,
        "drop_last": train,
        "device": device,
        "rank": rank,
        "world_size": world_size,
        "seed": seed,
    }
    crop: dict[str, Any] = {"scale": tuple(augmentation.scale), "flip": augmentation.flip}
    if data.resident:
        loader = ArrayLoader.of(
            dataset, device_transform=Compose(BatchResizedCrop(crop_size, **crop), Normalize()), **common
        )
        require_batch(len(loader.images), data.batch_size, train, "data.batch_size")  # what is left of it
        return loader
    return Loader(
        dataset,
        transform=RandomResizedCrop(crop_size, interpolation=augmentation.interpolation, **crop),
        device_transform=Compose(stack_classification, Normalize()),
        workers=data.workers,
        on_error=data.on_error,
        **common,
    )


def labelled_loader(
    dataset: ClassificationDataset,
    data: Any,
    img_size: int,
    augmentation: Any = None,
    *,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
) -> ArrayLoader | Loader:
    """Batches ``(images float32 (B, 3, S, S) ImageNet-normalised, {"label", "index", "key"})`` on the device.

    Args:
        dataset: with labels.
        data: ``resident`` images are cropped on the device, and evaluated whole; of others, workers crop with bicubic
            weights and apply RandAugment, and evaluation takes the middle (section 4).
        img_size: S.
        augmentation: of training, which shuffles and leaves out a last batch that is not full; None evaluates every
            image, in order.

    Raises:
        InputError: fewer images than a training batch has, or settings out of range.
    """
    train = augmentation is not None
    batch_size = data.batch_size if train else data.eval_batch_size * world_size
    require_batch(len(dataset), batch_size, train, "data.batch_size")
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "shuffle": train,
        "drop_last": train,
        "device": device,
        "rank": rank,
        "world_size": world_size,
        "seed": seed,
    }
    crop: dict[str, Any] = {"scale": (1.0, 1.0), "flip": 0.0}
    erasing: list[Any] = []
    if train:
        crop = {"scale": tuple(augmentation.scale), "flip": augmentation.flip}
        erasing = [RandomErasing(augmentation.erasing)]
    if data.resident:
        transform = Compose(BatchResizedCrop(img_size, **crop), Normalize(), *erasing)
        loader = ArrayLoader.of(dataset, device_transform=transform, **common)
        require_batch(len(loader.images), batch_size, train, "data.batch_size")  # what is left of it
        return loader
    in_worker: Any = RandomResizedCrop(img_size, **crop) if train else finetune_transforms(False, img_size)
    if train and augmentation.rand_augment is not None:
        in_worker = Compose(in_worker, RandAugment(augmentation.rand_augment, img_size))
    return Loader(
        dataset,
        transform=in_worker,
        device_transform=Compose(stack_classification, Normalize(), *erasing),
        workers=data.workers,
        on_error=data.on_error,
        **common,
    )


def require_batch(images: int, batch_size: int, train: bool, where: str) -> None:
    """Check that an epoch has a batch.

    Raises:
        InputError: it has none.
    """
    if train and images < batch_size:
        raise InputError(f"{images} images do not fill a batch of {batch_size}", where, f"use at most {images}")


def skipped_lines(*sources: Any) -> list[str]:
    """What data sets and loaders of all processes left out, each once (a collective call).

    Args:
        sources: objects with a list ``skipped``.
    """
    own = [line for source in sources for line in source.skipped]
    parts = [own]
    if dist.is_initialized():
        parts = [own] * dist.get_world_size()
        dist.all_gather_object(parts, own)
    return list(dict.fromkeys(line for part in parts for line in part))
