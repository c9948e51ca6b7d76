"""Transforms of classification batches on their device.

A device transform maps ``(images (B, 3, H, W), targets)``, targets a dict of tensors with the samples' ``key``, and
draws from :func:`vireo.data.random.counter_uniform` only: what it does to a sample does not depend on the batch it is
in. Chain them with :class:`~vireo.data.transforms.Compose`. None changes its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vireo.data.random import counter_uniform
from vireo.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vireo.errors import InputError

Targets = dict[str, Tensor]

CIFAR10_MEAN = (0.4914 * 255, 0.4822 * 255, 0.4465 * 255)
CIFAR10_STD = (0.2023 * 255, 0.1994 * 255, 0.2010 * 255)


class RandomCrop:
    """Pad every side by ``padding`` pixels of value ``fill`` and cut out a window at a random place.

    Args:
        padding: pixels on each side.
        fill: their value.
        size: ``(h, w)`` of the window, by default that of the images. With ``padding=0`` it is a part of the image,
            e.g. 36x36 of 40x40 pixels.

    Raises:
        InputError: negative padding, a size that is not positive; in a call: images smaller than the window.
    """

    def __init__(self, padding: int = 4, fill: int = 0, size: tuple[int, int] | None = None) -> None:
        if padding < 0:
            raise InputError(f"padding {padding} is negative", "RandomCrop", "Use 0 or more pixels")
        if size is not None and min(size) < 1:
            raise InputError(f"size {tuple(size)} is not positive", "RandomCrop", "Use e.g. (36, 36)")
        self.padding, self.fill, self.size = padding, fill, size

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        height, width = self.size or images.shape[-2:]
        places = [side + 2 * self.padding - cut + 1 for side, cut in zip(images.shape[-2:], (height, width))]
        if min(places) < 1:
            what = f"window of {(height, width)} (h, w) in images of {tuple(images.shape[-2:])}"
            raise InputError(what, "RandomCrop", "Use a smaller size or more padding")
        if self.padding == 0 and places == [1, 1]:
            return images, targets
        drawn = counter_uniform(targets["key"], "crop", 2)
        y, x = ((u * n).long().clamp_(max=n - 1) for u, n in zip(drawn.unbind(1), places))
        padded = F.pad(images, [self.padding] * 4, value=self.fill)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, 3, *places, h, w), a view
        samples = torch.arange(len(images), device=images.device)
        return windows[samples, :, y, x], targets


class HorizontalFlip:
    """Mirror an image left to right with probability ``p``.

    Raises:
        InputError: ``p`` is no probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise InputError(f"p {p} is no probability", "HorizontalFlip", "Use a number from 0 to 1")
        self.p = p

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        chosen = counter_uniform(targets["key"], "flip", 1) < self.p
        return torch.where(chosen[:, :, None, None], images.flip(-1), images), targets


class Normalize:
    """``(images - mean) / std`` as float32 ``(B, 3, H, W)``; both per channel, in the units of the images (0 to 255).

    Subtraction and product round separately, so CPU and CUDA agree to the bit.
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.inverse_std = 1 / torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        if images.device not in self._constants:
            self._constants[images.device] = (self.mean.to(images.device), self.inverse_std.to(images.device))
        mean, inverse_std = self._constants[images.device]
        return images.to(torch.float32, copy=True).sub_(mean).mul_(inverse_std), targets
