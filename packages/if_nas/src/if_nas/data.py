"""The data of a run: generated pictures, CIFAR's own files, or folders of images, and the loaders over them."""

from __future__ import annotations

from typing import Any

import torch

from vireo.data import (
    ArrayLoader,
    ClassificationDataset,
    Compose,
    GeneratedClasses,
    HorizontalFlip,
    ImageFolder,
    Loader,
    Normalize,
    RandomCrop,
    imagenet_transforms,
    per_class,
    require_same_classes,
    stack_classification,
)
from vireo.data.recipes import ImageTransform
from vireo.errors import InputError

from .cutout import Cutout
from .settings import Settings
from .subsets import ResizedCifar, named_classes, read_class_names

FORMATS = ("generated", "cifar", "folder")
VAL_SEED = 1_000_003  # generated pictures of evaluation


def build_datasets(data: Any) -> tuple[ClassificationDataset, ClassificationDataset]:
    """Training and evaluation set of a data configuration.

    Raises:
        InputError: settings out of range, no ``root``, files that cannot be used, or sets with different classes.
    """
    train_set, val_set = build_dataset(data, train=True), build_dataset(data, train=False)
    require_same_classes(train_set, val_set, str(data.get("root")))
    return train_set, val_set


def build_dataset(data: Any, *, train: bool) -> ClassificationDataset:
    """One of the sets; see :func:`build_datasets`."""
    _check(data)
    dataset: ClassificationDataset
    if data.format == "generated":
        count, seed = (data.train_images, data.seed) if train else (data.val_images, data.seed + VAL_SEED)
        options = {"noise": data.noise, "class_colours": data.class_colours}
        return GeneratedClasses(count, tuple(data.image_size), seed, data.num_classes, **options)
    if data.root is None:
        raise InputError("has no value", "data.root", "give the folder of the data with data.root=DIR")
    if data.format == "cifar":
        dataset = ResizedCifar(data.root, train, data.kind, tuple(data.image_size))
    else:
        size = tuple(data.image_size) if data.resident else None  # otherwise the workers crop
        folder = ImageFolder(data.root, data.train_split if train else data.val_split, data.on_error, size)
        if data.classes_file is not None:
            folder = named_classes(folder, read_class_names(data.classes_file), str(data.classes_file))
        if data.check_images != "none":
            folder.check_images(workers=max(1, data.workers), decode=data.check_images == "full")
        dataset = folder
    count = data.train_per_class if train else data.val_per_class
    return dataset if count is None else per_class(dataset, count)


def build_loader(
    dataset: ClassificationDataset,
    data: Any,
    *,
    train: bool,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
) -> ArrayLoader | Loader:
    """Batches ``(images float32 (B, 3, H, W), {"label", "index", "key"})`` on the device.

    ``data.resident`` keeps the decoded set on the device, where crops, flips and cutout are made; otherwise worker
    processes decode, crop, flip and change colours (section 4). Training shuffles, and leaves out a last batch that is
    not full; evaluation takes every image in order.

    Raises:
        InputError: fewer images than a training batch has, or than processes to evaluate on.
    """
    batch_size = data.batch_size if train else data.eval_batch_size * world_size
    normalize = Normalize(list(data.mean), list(data.std))
    here: dict[str, Any] = {"device": device, "rank": rank, "world_size": world_size, "seed": seed}
    kind: dict[str, Any] = {"batch_size": batch_size, "shuffle": train, "drop_last": train}
    loader: ArrayLoader | Loader
    if data.resident:
        cutout = () if data.cutout is None else (Cutout(data.cutout),)
        augment = Compose(RandomCrop(data.crop_padding), HorizontalFlip(data.flip), normalize, *cutout)
        loader = ArrayLoader.of(dataset, device_transform=augment if train else normalize, **kind, **here)
    else:
        loader = Loader(
            dataset,
            transform=_worker_transform(data, train),
            device_transform=Compose(stack_classification, normalize),
            workers=data.workers,
            on_error=data.on_error,
            **kind,
            **here,
        )
    if not train and len(dataset) < world_size:
        raise InputError(f"{len(dataset)} images for {world_size} processes", "evaluation data", "use fewer processes")
    return loader


def _worker_transform(data: Any, train: bool) -> Any:
    """Random resized crop and flip, then colours; of evaluation the middle of the image."""
    view = imagenet_transforms(train, data.crop_size)
    if not train or data.color_jitter is None:
        return view
    from torchvision.transforms.v2 import ColorJitter

    return Compose(view, ImageTransform(ColorJitter(*data.color_jitter)))


def _check(data: Any) -> None:
    """Values that would fail later, or not at all."""
    settings = Settings(data, "data")
    settings.choice("format", FORMATS)
    settings.flag("resident")
    if "crop_size" in data:  # of which image_size is made
        settings.whole("crop_size", 1)
    settings.numbers("image_size", 2, low=1, whole=True, example=224 if "crop_size" in data else 32)
    if "crop_size" in data and list(data.image_size) != [data.crop_size] * 2:
        what = f"{list(data.image_size)} contradicts data.crop_size={data.crop_size}, to which images are cropped"
        raise InputError(what, "data.image_size", "leave it out")
    settings.numbers("mean", 3, example=127)
    settings.numbers("std", 3, low=1e-6, example=64)
    settings.choice("on_error", ("raise", "skip"))
    settings.whole("workers")
    settings.whole("batch_size", 2)  # batch norm cannot normalise one image
    settings.whole("eval_batch_size", 1)
    if data.format == "generated":
        for name in ("train_images", "val_images"):
            settings.whole(name, 1)
        settings.whole("num_classes", 2)
        settings.whole("seed")
        settings.number("noise")
        settings.flag("class_colours")
    else:
        settings.text("root", "data.root=/data/cifar10", optional=True)
        settings.whole("train_per_class", 1, optional=True)
        settings.whole("val_per_class", 1, optional=True)
    if data.format == "folder":
        settings.text("train_split", "train")
        settings.text("val_split", "val")
        settings.text("classes_file", "classes.txt", optional=True)
        settings.choice("check_images", ("none", "headers", "full"))
    if data.resident and "crop_size" in data:
        raise InputError("large images are cropped by workers", "data.resident", "leave it out, or use data=folder")
    if data.resident:
        settings.whole("crop_padding")
        settings.number("flip", 0, 1)
        settings.whole("cutout", 2, optional=True)
    elif data.format != "folder" or "crop_size" not in data:
        raise InputError("this data is always kept on the device", "data.resident", "use data=imagenet for large files")
    elif data.color_jitter is not None:
        settings.numbers("color_jitter", 4, low=0, example=0.4)
        if data.color_jitter[3] > 0.5:
            raise InputError(f"hue {data.color_jitter[3]} is above 0.5", "data.color_jitter", "use e.g. 0.2")
