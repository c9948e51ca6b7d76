"""The data of a run: generated pictures, CIFAR's own files, or folders of images, and the loaders over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vireo.data import (
    ArrayLoader,
    Cifar,
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
    stack_classification,
)
from vireo.errors import InputError

FORMATS = ("generated", "cifar", "folder")
_CIFAR_FORMS = {
    "cifar-10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar-100": ("cifar-100-python", "cifar-100-binary"),
}


def build_datasets(data: Any) -> tuple[ClassificationDataset, ClassificationDataset]:
    """Training and evaluation set of a data configuration.

    Raises:
        InputError: no ``root``, an unknown format, files that cannot be used, or sets with different classes.
    """
    train_set, val_set = build_dataset(data, train=True), build_dataset(data, train=False)
    if train_set.classes != val_set.classes:
        only = sorted(set(train_set.classes) ^ set(val_set.classes))
        what = f"training and evaluation set have different classes ({len(only)} in one only: {', '.join(only[:5])})"
        raise InputError(what, str(data.get("root")), "give both splits the same class folders")
    return train_set, val_set


def build_dataset(data: Any, *, train: bool) -> ClassificationDataset:
    """One of the sets; see :func:`build_datasets`."""
    if data.format not in FORMATS:
        raise InputError(f"unknown format {data.format!r}", "data.format", f"use one of {', '.join(FORMATS)}")
    dataset: ClassificationDataset
    if data.format == "generated":
        count, seed = (data.train_images, data.seed) if train else (data.val_images, data.seed + 1_000_003)
        options = {"noise": data.noise, "class_colours": data.class_colours}
        return GeneratedClasses(count, tuple(data.image_size), seed, data.num_classes, **options)
    if data.root is None:
        raise InputError("has no value", "data.root", "give the folder of the data with data.root=DIR")
    if data.format == "cifar":
        dataset = Cifar(data.root, train, _published_form(Path(data.root), data.kind))
    else:
        size = tuple(data.image_size) if data.resident else None  # otherwise the workers crop
        split = data.train_split if train else data.val_split
        dataset = ImageFolder(data.root, split, data.on_error, size)
        if data.check_images != "none":
            dataset.check_images(workers=max(1, data.workers), decode=data.check_images == "full")
    count = data.train_per_class if train else data.val_per_class
    return dataset if count is None else per_class(dataset, count)


def _published_form(root: Path, kind: str) -> Any:
    """``cifar-10`` and ``cifar-100`` as that of their two published folders which lies at ``root``."""
    forms = _CIFAR_FORMS.get(kind)
    if forms is None:
        return kind
    there = [form for form in forms if (root / form).is_dir() or root.name == form]
    return there[0] if there else forms[any(root.glob("*.bin"))]


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

    ``data.resident`` keeps the decoded set on the device; otherwise worker processes decode and crop as for ImageNet.

    Raises:
        InputError: training would have a batch of one image, which batch norm cannot take, or there are fewer images to
            evaluate than processes.
    """
    batch_size = data.batch_size if train else data.eval_batch_size * world_size
    normalize = Normalize(list(data.mean), list(data.std))
    here: dict[str, Any] = {"device": device, "rank": rank, "world_size": world_size, "seed": seed}
    kind: dict[str, Any] = {"batch_size": batch_size, "shuffle": train, "drop_last": train and data.drop_last}
    loader: ArrayLoader | Loader
    if data.resident:
        augment = Compose(RandomCrop(data.crop_padding), HorizontalFlip(data.flip), normalize)
        loader = ArrayLoader.of(dataset, device_transform=augment if train else normalize, **kind, **here)
    elif "crop_size" in data:
        loader = Loader(
            dataset,
            transform=imagenet_transforms(train, data.crop_size),
            device_transform=Compose(stack_classification, normalize),
            workers=data.workers,
            on_error=data.on_error,
            **kind,
            **here,
        )
    else:
        raise InputError("this data is always kept on the device", "data.resident", "use data=imagenet for large files")
    # only now: images that cannot be read have left a resident set
    if train:
        _require_no_single(len(dataset), batch_size, world_size, data.drop_last)
    elif len(dataset) < world_size:
        raise InputError(f"{len(dataset)} images for {world_size} processes", "evaluation data", "use fewer processes")
    return loader


def _require_no_single(images: int, batch_size: int, world_size: int, drop_last: bool) -> None:
    """Batch norm needs two images; several processes normalise their images together."""
    rest = batch_size if drop_last else images % batch_size or batch_size
    if world_size == 1 and rest == 1:
        what = f"{images} images leave a batch of one, which batch norm cannot normalise"
        raise InputError(what, "data.batch_size", "choose another batch size, or data.drop_last=true")
