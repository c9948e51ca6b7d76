"""Transforms of detection samples: geometry in the worker, arithmetic on the device.

A CPU transform maps ``(image, target)`` to ``(image, target)`` and draws from the global generators, which the loader
seeds per sample. A device transform maps ``(images, targets)``, lists over a batch, and draws from
:func:`vireo.data.random.counter_uniform` with the targets' keys only. None changes its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vireo.data.random import counter_uniform

Target = dict[str, Any]
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]

BOX_FIELDS = ("boxes", "true_boxes")
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class Compose:
    """Apply transforms in turn; serves CPU transforms of a sample and device transforms of a batch alike."""

    def __init__(self, *transforms: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        self.transforms = transforms

    def __call__(self, images: Any, targets: Any) -> tuple[Any, Any]:
        for transform in self.transforms:
            images, targets = transform(images, targets)
        return images, targets


def _torchvision_functional() -> ModuleType:
    """Imported on demand, and by constructors, so that forked workers find it loaded."""
    return import_module("torchvision.transforms.v2.functional")


def resize(image: Tensor, target: Target, size: tuple[int, int], scale: float | None = None) -> tuple[Tensor, Target]:
    """Resize a sample to exactly ``size`` (h, w): antialiased bilinear for the image, nearest for masks.

    Boxes are scaled per axis by what the image was really scaled by, so they stay on their objects in spite of
    rounding; ``size / orig_size`` gives these factors exactly. ``area`` is multiplied by their product, the target's
    ``scale`` by the nominal ``scale`` (by default the factors' geometric mean).
    """
    F = _torchvision_functional()
    (h, w), (new_h, new_w) = image.shape[-2:], size
    if (h, w) == (new_h, new_w):
        return image, target
    scale_y, scale_x = new_h / h, new_w / w
    resized = dict(target)
    for field in BOX_FIELDS:
        if field in target:
            resized[field] = target[field] * torch.tensor([scale_x, scale_y, scale_x, scale_y])
    if "area" in target:
        resized["area"] = target["area"] * (scale_x * scale_y)
    if "masks" in target:
        rows = ((torch.arange(new_h) + 0.5) / scale_y).long().clamp(max=h - 1)
        columns = ((torch.arange(new_w) + 0.5) / scale_x).long().clamp(max=w - 1)
        resized["masks"] = target["masks"][:, rows][:, :, columns]
    resized["size"] = (new_h, new_w)
    resized["scale"] = target.get("scale", 1.0) * (scale or (scale_x * scale_y) ** 0.5)
    return F.resize_image(image, [new_h, new_w], antialias=True), resized


def horizontal_flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror a sample left to right: x becomes W - x."""
    width = image.shape[-1]
    flipped = dict(target)
    for field in BOX_FIELDS:
        if field in target:
            x1, y1, x2, y2 = target[field].unbind(-1)
            flipped[field] = torch.stack((width - x2, y1, width - x1, y2), -1)
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(-1)
    return image.flip(-1), flipped


class Resize:
    """Resize to a fixed ``size`` (h, w) without keeping the aspect ratio."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = (int(size[0]), int(size[1]))
        _torchvision_functional()

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        return resize(image, target, self.size)


class ResizeShortSide:
    """Resize the short side to ``short`` pixels, or to less where the long side would exceed ``max_size``.

    Sides are rounded to the nearest pixel; the target's ``scale`` is the factor before rounding.
    """

    def __init__(self, short: int, max_size: int) -> None:
        self.short, self.max_size = short, max_size
        _torchvision_functional()

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        h, w = image.shape[-2:]
        scale = min(self.short / min(h, w), self.max_size / max(h, w))
        return resize(image, target, (max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5))), scale)


class RandomHorizontalFlip:
    """Mirror with probability ``p``."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        return horizontal_flip(image, target) if float(torch.rand(())) < self.p else (image, target)


class TorchvisionTransform:
    """Use any ``torchvision.transforms.v2`` transform on samples: geometry moves boxes and masks along.

    Transforms that drop boxes are not supported: ``labels``, ``ids`` and the other fields would no longer match.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        from torchvision import tv_tensors

        canvas = (int(image.shape[-2]), int(image.shape[-1]))
        wrapped: Target = {
            field: tv_tensors.BoundingBoxes(target[field], format="XYXY", canvas_size=canvas)
            for field in BOX_FIELDS
            if field in target
        }
        if "masks" in target:
            wrapped["masks"] = tv_tensors.Mask(target["masks"])
        image, moved = self.transform(tv_tensors.Image(image), wrapped)
        image = image.as_subclass(Tensor)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        scale = target.get("scale", 1.0) * (size[0] * size[1] / (canvas[0] * canvas[1])) ** 0.5
        plain = {field: value.as_subclass(Tensor) for field, value in moved.items()}
        return image, {**target, **plain, "size": size, "scale": scale}


def detection_transforms(train: bool, short: int, max_size: int, flip: float = 0.5) -> Transform:
    """The usual recipe: short side to ``short`` pixels, long side at most ``max_size``; in training then a flip."""
    shrink = ResizeShortSide(short, max_size)
    return Compose(shrink, RandomHorizontalFlip(flip)) if train and flip > 0 else shrink


def _batch_keys(targets: Sequence[Target]) -> Tensor:
    return torch.stack([target["key"] for target in targets])


class NormalizePad:
    """Normalise images of any sizes into one zero-padded float32 batch, on the device they are on.

    Args:
        mean: per channel, in the images' units (0..255 for uint8).
        std: per channel, in the images' units.
        multiple: height and width of the batch are rounded up to a multiple of this (the stride of the network).

    Returns of a call:
        float32 (B, 3, Hp, Wp), zero outside each image, and the targets as they came (``size`` is the unpadded size).
        Subtraction and product round separately, so CPU and CUDA agree to the bit.
    """

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, multiple: int = 32
    ) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.inverse_std = 1 / torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self.multiple = multiple
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Sequence[Tensor], targets: list[Target]) -> tuple[Tensor, list[Target]]:
        device = images[0].device
        if device not in self._constants:
            self._constants[device] = (self.mean.to(device), self.inverse_std.to(device))
        mean, inverse_std = self._constants[device]
        height, width = (
            -(-max(image.shape[axis] for image in images) // self.multiple) * self.multiple for axis in (-2, -1)
        )
        full = all(image.shape[-2:] == (height, width) for image in images)
        if full and device.type == "cuda":  # few large kernels; a CPU is faster on one image at a time, in its cache
            return torch.stack(list(images)).float().sub_(mean).mul_(inverse_std), targets
        batch = (torch.empty if full else torch.zeros)(len(images), len(mean), height, width, device=device)
        for padded, image in zip(batch, images):
            padded[:, : image.shape[-2], : image.shape[-1]].copy_(image).sub_(mean).mul_(inverse_std)
        return batch, targets


class PhotometricDistort:
    """Random brightness, contrast, saturation and hue of a batch on its device; each is applied with probability ``p``.

    All four are affine in RGB, so one 3x3 matrix and one offset per image do the work. Hue is a rotation about the grey
    axis in YIQ.

    Args:
        brightness: largest change, in grey levels.
        contrast: factors in [1 - contrast, 1 + contrast], about the middle grey 128.
        saturation: factors in [1 - saturation, 1 + saturation].
        hue: largest rotation in degrees.
        p: probability of each of the four.

    Returns of a call:
        float32 images in [0, 255], to be followed by :class:`NormalizePad`, and the targets as they came.
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 18.0,
        p: float = 0.5,
    ) -> None:
        self.brightness, self.contrast, self.saturation, self.hue, self.p = brightness, contrast, saturation, hue, p
        to_yiq = torch.tensor(_RGB_TO_YIQ, dtype=torch.float64)
        self._to_yiq, self._to_rgb = to_yiq, torch.linalg.inv(to_yiq)
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def matrices(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Colour matrices (B, 3, 3) and offsets (B, 1) of the samples ``keys`` (B,): ``rgb' = M rgb + offset``."""
        if keys.device not in self._constants:
            self._constants[keys.device] = (self._to_yiq.to(keys.device), self._to_rgb.to(keys.device))
        to_yiq, to_rgb = self._constants[keys.device]
        u = counter_uniform(keys, "photometric", 8).double()
        amount = (2 * u[:, :4] - 1) * (u[:, 4:] < self.p)
        contrast, saturation = 1 + self.contrast * amount[:, 1], 1 + self.saturation * amount[:, 2]
        angle = torch.deg2rad(self.hue * amount[:, 3])
        chroma = torch.zeros(len(keys), 3, 3, dtype=torch.float64, device=keys.device)
        chroma[:, 0, 0] = 1
        chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * angle.cos()
        chroma[:, 1, 2], chroma[:, 2, 1] = -saturation * angle.sin(), saturation * angle.sin()
        matrix = to_rgb @ chroma @ to_yiq * contrast[:, None, None]
        offset = 128 * (1 - contrast) + self.brightness * amount[:, 0]
        return matrix.float(), offset.float()[:, None]

    def __call__(self, images: Sequence[Tensor], targets: list[Target]) -> tuple[list[Tensor], list[Target]]:
        distorted = []
        for image, matrix, offset in zip(images, *self.matrices(_batch_keys(targets))):
            flat = matrix @ image.flatten(1).float() + offset
            distorted.append(flat.clamp_(0, 255).view(image.shape))
        return distorted, targets
