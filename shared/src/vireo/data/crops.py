"""Random crops of one sample in a worker: drawing the window and cutting it out are separate steps."""

from __future__ import annotations

from importlib import import_module
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vireo.data.transforms import Target
from vireo.errors import InputError

Interpolation = Literal["bilinear", "bicubic"]


class Crop(NamedTuple):
    """A window of an image in pixels, and whether what it shows is mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


class RandomResizedCrop:
    """Resize a random window of the image to ``size`` x ``size``, antialiased, and mirror it with probability ``flip``.

    The window's share of the image's area is uniform in ``scale``, the logarithm of its aspect ratio (width over
    height) uniform in that of ``ratio``: Inception's crop, drawn by torchvision from torch's global generator, and then
    the flip. With ``scale=(0.2, 1.0)`` and bicubic resizing it is the pre-training crop of the MAE family.

    A call maps an image ``uint8 (3, H, W)`` to ``uint8 (3, size, size)`` and leaves the target alone.

    Raises:
        InputError: a size that is not positive, a range out of order, another interpolation or no probability.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bicubic",
        flip: float = 0.5,
    ) -> None:
        where = type(self).__name__
        if size < 1:
            raise InputError(f"size {size} is not positive", where, "Use e.g. 224")
        for name, (low, high) in (("scale", scale), ("ratio", ratio)):
            if not 0 < low <= high:
                raise InputError(f"{name} {low} to {high} is no range", where, "Use 0 < low <= high")
        if scale[1] > 1:
            raise InputError(f"scale {scale[1]} is more than the image", where, "Use at most 1")
        if interpolation not in ("bilinear", "bicubic"):
            raise InputError(f"{interpolation!r} is not a choice of interpolation", where, "Use bilinear or bicubic")
        if not 0 <= flip <= 1:
            raise InputError(f"flip {flip} is no probability", where, "Use a number from 0 to 1")
        self.size, self.flip, self.interpolation = size, flip, interpolation
        self.scale, self.ratio = [float(x) for x in scale], [float(x) for x in ratio]
        import_module("torchvision.transforms.v2")  # now, so that forked workers find it loaded

    def draw(self, image: Tensor) -> Crop:
        """A window of ``image``; where none of the drawn shape fits, the largest in the middle."""
        from torchvision import transforms

        top, left, height, width = transforms.RandomResizedCrop.get_params(image, self.scale, self.ratio)
        return Crop(top, left, height, width, flip=bool(torch.rand(()) < self.flip))

    def cut(self, image: Tensor, crop: Crop) -> Tensor:
        """What ``crop`` shows of ``image``, ``uint8 (3, size, size)``."""
        from torchvision.transforms.v2 import functional as F

        window = image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        resized: Tensor = F.resize_image(window, [self.size] * 2, self.interpolation, antialias=True)
        return resized.flip(-1) if crop.flip else resized

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        return self.cut(image, self.draw(image)), target
