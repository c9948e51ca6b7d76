"""The data of a run, and the loaders over it."""

from __future__ import annotations

from typing import Any

from vireo.data import ArrayLoader, Compose, GeneratedClasses, HorizontalFlip, Normalize, RandomCrop


def build_dataset(data: Any, *, train: bool) -> GeneratedClasses:
    """The training or the evaluation set of a ``data`` configuration."""
    count, seed = (data.train_images, data.seed) if train else (data.val_images, data.seed + 1)
    return GeneratedClasses(count, tuple(data.image_size), seed, data.num_classes, class_colours=True)


def build_loader(dataset: GeneratedClasses, data: Any, *, train: bool, **here: Any) -> ArrayLoader:
    """Batches ``(images float32 (B, 3, H, W), {"label", "index", "key"})`` on the device.

    Args:
        here: ``device``, ``rank``, ``world_size`` and ``seed`` of this process.
    """
    normalize = Normalize([127.5] * 3, [64.0] * 3)
    transform = Compose(RandomCrop(2), HorizontalFlip(), normalize) if train else normalize
    return ArrayLoader.of(dataset, batch_size=data.batch_size, shuffle=train, device_transform=transform, **here)
