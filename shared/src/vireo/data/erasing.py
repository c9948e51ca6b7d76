"""Random erasing of normalised batches on their device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vireo.data.classification_transforms import Targets
from vireo.data.random import counter_uniform
from vireo.errors import InputError

_ATTEMPTS = 10


class RandomErasing:
    """Replace a random rectangle of each image by standard normal noise with probability ``p`` (Zhong et al., 2020).

    The distribution is that of ``timm.data.RandomErasing(p, mode="pixel")``: the rectangle's share of the image is
    uniform in ``area``, the logarithm of its height over width uniform between those of ``ratio`` and 1 / ``ratio``; of
    ten drawn shapes the first that leaves a margin is taken, and none if all are too large. What happens to a sample is
    a function of its ``key`` alone; its noise agrees between devices to float32 rounding.

    A call maps float images ``(B, C, H, W)``, normalised to about unit variance, to new ones of the same dtype.

    Raises:
        InputError: no probability, no range of shares, a ratio outside (0, 1]; in a call: images that are no floats.
    """

    def __init__(self, p: float = 0.25, area: tuple[float, float] = (0.02, 1 / 3), ratio: float = 0.3) -> None:
        where = type(self).__name__
        if not 0 <= p <= 1:
            raise InputError(f"p {p} is no probability", where, "Use a number from 0 to 1")
        if not 0 < area[0] <= area[1] <= 1:
            raise InputError(f"area {area[0]} to {area[1]} is no range of shares", where, "Use 0 < low <= high <= 1")
        if not 0 < ratio <= 1:
            raise InputError(f"ratio {ratio} is not in (0, 1]", where, "Use the smallest height over width, e.g. 0.3")
        self.p, self.area, self.ratio = p, area, ratio

    def rectangles(self, keys: Tensor, height: int, width: int) -> Tensor:
        """Rectangles ``(top, left, height, width)`` in images of ``height`` x ``width``: int64 ``(B, 4)`` by key.

        Height and width are 0 where nothing is erased.
        """
        u = counter_uniform(keys, "erase", 1 + 4 * _ATTEMPTS).double()
        share, shape, y, x = u[:, 1:].unflatten(1, (4, _ATTEMPTS)).unbind(1)  # (B, attempts) each
        target = (self.area[0] + (self.area[1] - self.area[0]) * share) * (height * width)
        aspect = ((2 * shape - 1) * -math.log(self.ratio)).exp()
        h, w = (target * aspect).sqrt().round(), (target / aspect).sqrt().round()
        fits = (h < height) & (w < width)
        top, left = (y * (height - h + 1)).floor(), (x * (width - w + 1)).floor()
        first = fits.int().argmax(1, keepdim=True)
        rectangle = torch.stack((top, left, h, w), -1).gather(1, first[..., None].expand(-1, -1, 4))[:, 0]
        erased = fits.any(1) & (u[:, 0] < self.p)
        return torch.where(erased[:, None], rectangle, 0).long()

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        if not images.is_floating_point():
            what = f"noise of unit variance in images of {images.dtype}"
            raise InputError(what, type(self).__name__, "Put Normalize before it")
        keys = targets["key"]
        rectangles = self.rectangles(keys, *images.shape[-2:])
        if images.device.type == "cuda":  # all, because to ask which would wait for the device
            return self._erase(images, keys, rectangles), targets
        chosen = rectangles[:, 2:].amin(1).nonzero()[:, 0]
        erased = self._erase(images[chosen], keys[chosen], rectangles[chosen])
        return images.index_copy(0, chosen, erased), targets

    def _erase(self, images: Tensor, keys: Tensor, rectangles: Tensor) -> Tensor:
        """``images`` with noise in ``rectangles``; it is drawn for the pixels of the largest rectangle possible."""
        channels, height, width = images.shape[1:]
        top, left, h, w = rectangles[:, :, None, None].unbind(1)  # (B, 1, 1) each
        y = torch.arange(height, device=images.device)[:, None] - top
        x = torch.arange(width, device=images.device) - left
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)  # (B, H, W)
        pixels = self._most_pixels(height, width)
        noise = _normal(counter_uniform(keys, "erase noise", channels * pixels)).unflatten(1, (channels, pixels))
        place = (y * w + x).masked_fill(~inside, 0).flatten(1)  # the pixel's number within its rectangle
        spread = noise.gather(2, place[:, None].expand(-1, channels, -1)).view_as(images)
        return torch.where(inside[:, None], spread.to(images.dtype), images)

    def _most_pixels(self, height: int, width: int) -> int:
        """Pixels of the largest rectangle there can be: sides round up by half a pixel at most."""
        side = math.sqrt(self.area[1] * height * width)
        stretch = math.sqrt(self.ratio)
        return min(math.ceil((side * stretch + 0.5) * (side / stretch + 0.5)), height * width)


def _normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers from float32 multiples of 2**-24 in [0, 1); the largest magnitude is 5.4."""
    return torch.erfinv(2 * uniform + (2.0**-24 - 1)) * math.sqrt(2)
