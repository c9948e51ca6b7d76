"""Data of runs on single images: generated pictures, CIFAR's own files or folders of images, and loaders over them.

What pre-training on images and classification have in common, from a ``data`` configuration to batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vireo.data.arrays import ArrayLoader, stack_classification
from vireo.data.cifar import Cifar
from vireo.data.classification import ClassificationDataset, per_class, resize_images
from vireo.data.classification_transforms import Normalize
from vireo.data.crops import RandomResizedCrop
from vireo.data.erasing import RandomErasing
from vireo.data.generated_classes import GeneratedClasses
from vireo.data.image_folder import ImageFolder
from vireo.data.image_tree import ImageTree
from vireo.data.loader import Loader
from vireo.data.recipes import CROP_PCT, RandAugment, finetune_transforms
from vireo.data.resized_crops import BatchResizedCrop
from vireo.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Compose
from vireo.errors import InputError

FORMATS = ("generated", "cifar", "folder")
VAL_SEED = 1_000_003  # generated pictures of evaluation
NORMALIZATIONS = {  # mean and deviation of each channel in grey levels
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((127.5,) * 3, (127.5,) * 3),  # -1 to 1: BEiT's and its successors'
}


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


def normalization(data: Any) -> Normalize:
    """The transform of a data configuration: ``normalize`` is ``imagenet`` (also where it is absent) or ``half``.

    Raises:
        InputError: another name.
    """
    name = data.get("normalize", "imagenet")
    if name not in NORMALIZATIONS:
        remedy = f"use one of {', '.join(NORMALIZATIONS)}"
        raise InputError(f"unknown mean and deviation {name!r}", "data.normalize", remedy)
    return Normalize(*NORMALIZATIONS[name])


def pretraining_loader(
    dataset: ClassificationDataset, data: Any, augmentation: Any, crop_size: int, *, train: bool = True, **here: Any
) -> ArrayLoader | Loader:
    """Batches ``(images float32 (B, 3, crop, crop), normalised, {"key", ...})`` on the device.

    Random resized crops and flips, in evaluation too: the keys make them the same each time. The last batch of a
    training epoch is left out if it is not full.

    Args:
        dataset: of any images.
        data: configuration; ``resident`` images are cropped on the device, others by workers. ``normalize``: see
            :func:`normalization`.
        augmentation: configuration of the crops.
        crop_size: side of the crops.
        train: shuffle.
        **here: ``device``, ``rank``, ``world_size`` and ``seed`` of this process.

    Raises:
        InputError: fewer images than a batch has.
    """
    if data.resident and augmentation.interpolation != "bilinear":
        what = f"images that stay on the device are resized bilinearly, not {augmentation.interpolation}"
        raise InputError(what, "augmentation.interpolation", "use bilinear, or data.resident=false")
    crop: dict[str, Any] = {"scale": tuple(augmentation.scale), "flip": augmentation.flip}
    if data.resident:
        transform: Any = BatchResizedCrop(crop_size, **crop)
    else:
        transform = RandomResizedCrop(crop_size, interpolation=augmentation.interpolation, **crop)
    return _loader(dataset, data, transform, data.batch_size, train, **here)


def labelled_loader(
    dataset: ClassificationDataset, data: Any, img_size: int, augmentation: Any = None, **here: Any
) -> ArrayLoader | Loader:
    """Batches ``(images float32 (B, 3, S, S), normalised, {"label", "index", "key"})`` on the device.

    Args:
        dataset: with labels.
        data: ``resident`` images are cropped on the device, and evaluated whole; of others, workers crop with bicubic
            weights and apply RandAugment, and evaluation takes the middle: ``crop_pct`` of the short side, 0.875 where
            it is absent. ``normalize``: see :func:`normalization`.
        img_size: S.
        augmentation: of training, which shuffles and leaves out a last batch that is not full; None evaluates every
            image, in order.
        **here: ``device``, ``rank``, ``world_size`` and ``seed`` of this process.

    Raises:
        InputError: fewer images than a training batch has, or settings out of range.
    """
    transform: Any
    if augmentation is None:
        whole = BatchResizedCrop(img_size, (1.0, 1.0), flip=0.0)
        middle = finetune_transforms(False, img_size, crop_pct=data.get("crop_pct", CROP_PCT))
        transform = whole if data.resident else middle
        return _loader(dataset, data, transform, data.eval_batch_size * here.get("world_size", 1), False, **here)
    crop: dict[str, Any] = {"scale": tuple(augmentation.scale), "flip": augmentation.flip}
    transform = BatchResizedCrop(img_size, **crop) if data.resident else RandomResizedCrop(img_size, **crop)
    if augmentation.rand_augment is not None and not data.resident:
        mean = normalization(data).mean.flatten().tolist()
        transform = Compose(transform, RandAugment(augmentation.rand_augment, img_size, mean))
    return _loader(dataset, data, transform, data.batch_size, True, RandomErasing(augmentation.erasing), **here)


def evaluation_view(image: Tensor, data: Any, img_size: int) -> Tensor:
    """One image as :func:`labelled_loader` evaluates it, ``(1, 3, S, S)`` on its device.

    Args:
        image: uint8 ``(3, H, W)`` of any size.
        data: configuration of the run.
        img_size: S.
    """
    if data.resident:
        whole = BatchResizedCrop(img_size, (1.0, 1.0), flip=0.0)
        keys = {"key": torch.zeros(1, dtype=torch.int64, device=image.device)}
        view = whole(resize_images(image, tuple(data.image_size))[None], keys)[0]
    else:
        view = finetune_transforms(False, img_size, crop_pct=data.get("crop_pct", CROP_PCT))(image, {})[0][None]
    return normalization(data)(view, {})[0]


def _loader(
    dataset: ClassificationDataset, data: Any, crop: Any, batch_size: int, train: bool, *last: Any, **here: Any
) -> ArrayLoader | Loader:
    """``crop`` is of a batch on the device where images are ``resident``, else of an image in a worker; ``last`` is
    applied to the normalised batch."""
    require_batch(len(dataset), batch_size, train, "data.batch_size")
    common: dict[str, Any] = {"batch_size": batch_size, "shuffle": train, "drop_last": train, **here}
    if data.resident:
        loader = ArrayLoader.of(dataset, device_transform=Compose(crop, normalization(data), *last), **common)
        require_batch(len(loader.images), batch_size, train, "data.batch_size")  # what is left of it
        return loader
    return Loader(
        dataset,
        transform=crop,
        device_transform=Compose(stack_classification, normalization(data), *last),
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
