"""Data of pre-training: crops of images for the student, and of the same part of each image for a teacher.

A teacher has its own patch size, so its view has its own size; what is cut out, mirrored and jittered is the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireo.data import (
    ArrayLoader,
    BatchResizedCrop,
    ClassificationDataset,
    Compose,
    Loader,
    RandomResizedCrop,
    stack_classification,
)
from vireo.data.image_sets import normalization, require_batch
from vireo.data.random import counter_uniform
from vireo.errors import InputError

Targets = dict[str, Any]
_GREY = (0.299, 0.587, 0.114)


class BatchColorJitter:
    """Change brightness, contrast and saturation of each image by factors of its own, on the device.

    The counterpart of torchvision's ``ColorJitter`` for images that stay on the device; the three always come in this
    order.

    Args:
        strength: factors are uniform in ``1 - strength`` to ``1 + strength``; 0 changes nothing.

    Returns of a call:
        float32 ``(B, 3, H, W)`` in 0 to 255, and the targets as they came.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        images = images.float()
        if not self.strength:
            return images, targets
        drawn = 1 + self.strength * (2 * counter_uniform(targets["key"], "color_jitter", 3) - 1)
        brightness, contrast, saturation = drawn.view(-1, 3, 1, 1, 1).unbind(1)
        weights = images.new_tensor(_GREY).view(3, 1, 1)
        images = (images * brightness).clamp(0, 255)
        mean = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        images = torch.lerp(mean, images, contrast).clamp(0, 255)
        grey = (images * weights).sum(1, keepdim=True)
        return torch.lerp(grey, images, saturation).clamp(0, 255), targets


class _BatchViews:
    """Both views of images that stay on the device: jittered, then the same crop in two sizes."""

    def __init__(self, size: int, teacher_size: int, jitter: float, **crop: Any) -> None:
        self.jitter = BatchColorJitter(jitter)
        self.student, self.teacher = BatchResizedCrop(size, **crop), BatchResizedCrop(teacher_size, **crop)

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        images, targets = self.jitter(images, targets)
        return self.student(images, targets)[0], {**targets, "teacher": self.teacher(images, targets)[0]}


class TwoViews:
    """Both views of an image in a worker: jittered, then the same crop in two sizes (section 3.5).

    A call maps an image ``uint8 (3, H, W)`` to the student's, ``uint8 (3, size, size)``, bicubic; the target gains
    ``teacher``, ``uint8 (3, teacher_size, teacher_size)``, resized by Lanczos.

    Args:
        size, teacher_size: sides in pixels.
        jitter: strength of torchvision's ``ColorJitter``; 0 for none.
        **crop: ``scale``, ``flip`` and ``interpolation`` of :class:`vireo.data.RandomResizedCrop`.
    """

    def __init__(self, size: int, teacher_size: int, jitter: float, **crop: Any) -> None:
        self.crop, self.teacher_size = RandomResizedCrop(size, **crop), teacher_size
        transforms = import_module("torchvision.transforms.v2")  # now, so that forked workers find it loaded
        self.jitter = transforms.ColorJitter(jitter, jitter, jitter) if jitter else None

    def __call__(self, image: Tensor, target: Targets) -> tuple[Tensor, Targets]:
        from PIL import Image

        if self.jitter is not None:
            image = self.jitter(image)
        window = self.crop.draw(image)
        shown = image[:, window.top : window.top + window.height, window.left : window.left + window.width]
        picture = Image.fromarray(shown.permute(1, 2, 0).numpy())
        resized = np.array(picture.resize((self.teacher_size, self.teacher_size), Image.Resampling.LANCZOS))
        teacher = torch.from_numpy(resized).permute(2, 0, 1)
        teacher = teacher.flip(-1) if window.flip else teacher.contiguous()
        return self.crop.cut(image, window), {**target, "teacher": teacher}


def two_view_loader(
    dataset: ClassificationDataset,
    data: Any,
    augmentation: Any,
    sizes: tuple[int, int],
    *,
    train: bool = True,
    **here: Any,
) -> ArrayLoader | Loader:
    """Batches ``(images float32 (B, 3, S, S), normalised, {"teacher", "key", ...})`` on the device.

    ``teacher`` is float32 ``(B, 3, T, T)`` in [0, 1]. Crops are random in evaluation too: the keys make them the same
    each time. The last batch of a training epoch is left out if it is not full.

    Args:
        dataset: of any images.
        data: configuration; ``resident`` images are cropped on the device, others by workers.
        augmentation: ``scale``, ``flip``, ``interpolation`` and ``color_jitter``.
        sizes: S and T.
        train: shuffle.
        **here: ``device``, ``rank``, ``world_size`` and ``seed`` of this process.

    Raises:
        InputError: fewer images than a batch has, or settings out of range.
    """
    if not 0 <= augmentation.color_jitter <= 1:
        remedy = "use 0 to 1; published: 0.4"
        raise InputError(f"a strength of {augmentation.color_jitter}", "augmentation.color_jitter", remedy)
    if data.resident and augmentation.interpolation != "bilinear":
        what = f"images that stay on the device are resized bilinearly, not {augmentation.interpolation}"
        raise InputError(what, "augmentation.interpolation", "use bilinear, or data.resident=false")
    require_batch(len(dataset), data.batch_size, train, "data.batch_size")
    crop = {"scale": tuple(augmentation.scale), "flip": augmentation.flip}
    common: dict[str, Any] = {"batch_size": data.batch_size, "shuffle": train, "drop_last": train, **here}
    last = Compose(normalization(data), _teacher_in_unit_range)
    if data.resident:
        views = _BatchViews(*sizes, augmentation.color_jitter, **crop)
        loader = ArrayLoader.of(dataset, device_transform=Compose(views, last), **common)
        require_batch(len(loader.images), data.batch_size, train, "data.batch_size")  # what is left of it
        return loader
    return Loader(
        dataset,
        transform=TwoViews(*sizes, augmentation.color_jitter, interpolation=augmentation.interpolation, **crop),
        device_transform=Compose(stack_classification, last),
        workers=data.workers,
        on_error=data.on_error,
        **common,
    )


def _teacher_in_unit_range(images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    return images, {**targets, "teacher": targets["teacher"].float() / 255}
