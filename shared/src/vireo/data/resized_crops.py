"""Random resized crops of a whole batch at once, for images that stay on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vireo.data.random import counter_uniform
from vireo.errors import InputError

Targets = dict[str, Tensor]


class BatchResizedCrop:
    """Cut a random part out of each image and resize it, with antialiased bilinear weights, on the device.

    The counterpart of :class:`~vireo.data.RandomResizedCrop` for :class:`~vireo.data.ArrayLoader`: the part has a share
    of the area in ``scale`` and an aspect ratio in ``ratio`` (log-uniform), clipped where it would not fit. Rows and
    columns are resampled by two products with matrices made for each image, so nothing loops over images.

    Args:
        size: side of the result in pixels.
        scale: range of the part's share of the area; (1, 1) takes the whole image: evaluation.
        ratio: range of its width divided by its height.
        flip: probability of mirroring left to right.

    Returns of a call:
        float32 ``(B, C, size, size)`` in the units of the images, and the targets as they came.

    Raises:
        InputError: a range that is none.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
    ) -> None:
        if size < 1 or not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1] or not 0 <= flip <= 1:
            what = f"size {size}, scale {tuple(scale)}, ratio {tuple(ratio)}, flip {flip}"
            remedy = "use a positive size, 0 < scale <= 1 and ratio > 0 in ascending order, and a probability"
            raise InputError(what, "BatchResizedCrop", remedy)
        self.size, self.flip = size, flip
        self.scale = (float(scale[0]), float(scale[1]))
        self.log_ratio = (math.log(ratio[0]), math.log(ratio[1]))

    def boxes(self, keys: Tensor, height: int, width: int) -> Tensor:
        """The parts of images of one size: top, left, height and width in pixels, with fractions; ``(B, 4)``."""
        share, shape, y, x = counter_uniform(keys, "resized_crop", 4).unbind(1)
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * share) * height * width
        aspect = (self.log_ratio[0] + (self.log_ratio[1] - self.log_ratio[0]) * shape).exp()
        if self.scale[0] == 1:  # the whole image, whatever its shape
            aspect = torch.full_like(aspect, width / height)
        tall = (area / aspect).sqrt().clamp(max=height)
        wide = (area * aspect).sqrt().clamp(max=width)
        return torch.stack((y * (height - tall), x * (width - wide), tall, wide), 1)

    def __call__(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        keys = targets["key"]
        top, left, tall, wide = self.boxes(keys, *images.shape[-2:]).unbind(1)
        rows = resampling_weights(top, tall, images.shape[-2], self.size)
        columns = resampling_weights(left, wide, images.shape[-1], self.size)
        if self.flip:
            chosen = counter_uniform(keys, "flip", 1) < self.flip
            columns = torch.where(chosen[:, :, None], columns.flip(1), columns)
        return rows[:, None] @ images.float() @ columns[:, None].mT, targets


def resampling_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Weights of ``source`` pixels in each of ``size`` results that divide [start, start + length) evenly.

    The filter is a triangle as wide as a result, at least a pixel: antialiased bilinear, as in Pillow.

    Args:
        start, length: ``(B,)`` in pixels, within the image.

    Returns:
        float32 ``(B, size, source)``, rows sum to 1.
    """
    step = (length / size)[:, None, None]
    places = torch.arange(size, device=start.device)[:, None] + 0.5
    centers = start[:, None, None] + places * step
    pixels = torch.arange(source, device=start.device) + 0.5
    weights = (1 - (pixels - centers).abs() / step.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)
