"""Transforms of segmentation samples: geometry in the worker, colours and padding on the device."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

from vireo.data.segmentation import IGNORE
from vireo.data.transforms import IMAGENET_MEAN, IMAGENET_STD, NormalizePad, Target, resize
from vireo.errors import InputError

_TRIES = 10  # crops drawn before one full of a single class is taken


class RandomScaledCrop:
    """Resize by a random factor, cut a random window out, mirror half of the samples (the recipe of mmsegmentation).

    The image is resized so that its short side is ``short`` and its long side at most ``long``, both times a factor
    uniform in ``ratio``. Of ten windows the first in which no class has more than ``max_share`` of the pixels that
    count is taken, or the last. What is smaller than a window stays smaller: pad it on the device.

    Args:
        size: (height, width) of the window.
        short, long: pixels.
        ratio: range of the factor.
        max_share: in (0, 1]; 1 takes the first window.
        flip: probability of mirroring.

    Raises:
        InputError: a size that is not positive, or a range out of order.
    """

    def __init__(
        self,
        size: tuple[int, int],
        short: int,
        long: int,
        ratio: tuple[float, float] = (0.5, 2.0),
        max_share: float = 0.75,
        flip: float = 0.5,
    ) -> None:
        where = type(self).__name__
        if min(*size, short, long) < 1:
            raise InputError(f"size {tuple(size)}, sides {short} and {long} are not positive", where, "Use e.g. 512")
        if not 0 < ratio[0] <= ratio[1]:
            raise InputError(f"ratio {tuple(ratio)} is no range", where, "Use 0 < low <= high, e.g. (0.5, 2.0)")
        if not 0 < max_share <= 1:
            raise InputError(f"max_share {max_share} is no share", where, "Use a number above 0, at most 1")
        self.size, self.short, self.long = (int(size[0]), int(size[1])), short, long
        self.ratio, self.max_share, self.flip = (float(ratio[0]), float(ratio[1])), max_share, flip
        import_module("torchvision.transforms.v2.functional")  # now, so that forked workers find it loaded

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        low, high = self.ratio
        factor = low + (high - low) * float(torch.rand(()))
        image, labels = resize_segmentation(image, target["labels"], self.short * factor, self.long * factor)
        rows, columns = self._window(labels)
        image, labels = image[:, rows, columns], labels[rows, columns]
        if float(torch.rand(())) < self.flip:
            image, labels = image.flip(-1), labels.flip(-1)
        return image.contiguous(), {**target, "labels": labels.contiguous()}

    def _window(self, labels: Tensor) -> tuple[slice, slice]:
        for _ in range(_TRIES):
            rows, columns = (self._side(length, side) for length, side in zip(labels.shape, self.size))
            if self.max_share == 1 or self._varied(labels[rows, columns]):
                break
        return rows, columns

    @staticmethod
    def _side(length: int, side: int) -> slice:
        start = int(torch.randint(0, max(length - side, 0) + 1, ()))
        return slice(start, start + side)

    def _varied(self, labels: Tensor) -> bool:
        counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:IGNORE]
        return bool(counts.max() < self.max_share * counts.sum())


def resize_segmentation(image: Tensor, labels: Tensor, short: float, long: float) -> tuple[Tensor, Tensor]:
    """Resize to a short side of ``short``, or less where the long side would exceed ``long``; labels by the nearest."""
    height, width = image.shape[-2:]
    scale = min(short / min(height, width), long / max(height, width))
    size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    image, moved = resize(image, {"masks": labels[None]}, size)
    return image, moved["masks"][0]


class ResizeImage:
    """Resize an image as :func:`resize_segmentation` does, and leave its labels, which evaluation compares, alone."""

    def __init__(self, short: int, long: int) -> None:
        self.short, self.long = short, long
        import_module("torchvision.transforms.v2.functional")

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        return resize_segmentation(image, target["labels"], self.short, self.long)[0], target


class StackSegmentation:
    """Normalise and pad samples into one batch, on the device they are on: zeros around images, 255 around labels.

    Args:
        size: (height, width) of the batch, at least that of any image.
        mean, std: per channel, in the images' units.

    Returns of a call:
        float32 ``(B, 3, *size)``, and a dict of tensors: ``labels`` uint8 ``(B, *size)``, and the other tensors among
        the targets' fields, stacked.
    """

    def __init__(
        self, size: tuple[int, int], mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        self.size = (int(size[0]), int(size[1]))
        self.normalize = NormalizePad(mean, std, multiple=1)

    def __call__(self, images: Sequence[Tensor], targets: list[Target]) -> tuple[Tensor, dict[str, Tensor]]:
        batch, _ = self.normalize(images, targets)
        height, width = self.size
        if batch.shape[-2:] != self.size:
            batch = F.pad(batch, (0, width - batch.shape[-1], 0, height - batch.shape[-2]))
        labels = targets[0]["labels"].new_full((len(targets), height, width), IGNORE)
        for padded, target in zip(labels, targets):
            rows, columns = target["labels"].shape
            padded[:rows, :columns] = target["labels"]
        others = [name for name, value in targets[0].items() if isinstance(value, Tensor) and name != "labels"]
        stacked = {name: torch.stack([target[name] for target in targets]) for name in others}
        return batch, {"labels": labels, **stacked}


class NormalizeEach:
    """Normalise images of any sizes, each by itself; targets stay as they came. See :class:`StackSegmentation`."""

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        self.normalize = NormalizePad(mean, std, multiple=1)

    def __call__(self, images: Sequence[Tensor], targets: list[Target]) -> tuple[list[Tensor], list[Target]]:
        return [self.normalize([image], targets)[0][0] for image in images], targets
