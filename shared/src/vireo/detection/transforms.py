"""Scales and crops of training samples in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vireo.data.transforms import BOX_FIELDS, ResizeShortSide, Target, _torchvision_functional, resize
from vireo.errors import InputError

_PER_BOX = (*BOX_FIELDS, "labels", "ids", "iscrowd", "area", "masks")
_LONGEST = 4200  # pixels of a resized image


class RandomWindow:
    """With probability ``p``, resize a sample and cut a random window out of it (DETR's recipe of training).

    The short side becomes one of ``short_sides``, then a window's height and width are drawn between ``sides``, as far
    as the image goes. Boxes are clipped to the window, those outside are left out; it may be without any.

    Args:
        p: probability.
        short_sides: pixels.
        sides: least and greatest side of a window in pixels.

    Raises:
        InputError: no probability.
    """

    def __init__(
        self, p: float = 0.5, short_sides: Sequence[int] = (400, 500, 600), sides: tuple[int, int] = (384, 600)
    ) -> None:
        if not 0 <= p <= 1:
            raise InputError(f"{p} is no probability", "RandomWindow", "Use a number from 0 to 1")
        self.p, self.sides = p, sides
        self.resizes = [ResizeShortSide(short, _LONGEST) for short in short_sides]

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        if float(torch.rand(())) >= self.p:
            return image, target
        image, target = self.resizes[int(torch.randint(len(self.resizes), ()))](image, target)
        height, width = (self._side(length) for length in image.shape[-2:])
        top, left = (int(torch.randint(x - y + 1, ())) for x, y in zip(image.shape[-2:], (height, width)))
        return crop(image, target, top, left, height, width)

    def _side(self, length: int) -> int:
        least, greatest = (min(length, side) for side in self.sides)
        return int(torch.randint(least, greatest + 1, ()))


class LargeScaleJitter:
    """Resize a sample by a random factor and cut a square out of it (Ghiasi et al., Copy-Paste, CVPR 2021).

    The factor times ``size`` is the long side, drawn uniformly; a random window of ``size`` pixels remains where a side
    is longer. Boxes are clipped to the window, those outside are left out; where there are masks, boxes are drawn anew
    around what is left of them.

    Args:
        size: pixels; images are to be padded to it.
        scales: least and greatest factor.

    Raises:
        InputError: factors that are not positive, or in another order.
    """

    def __init__(self, size: int, scales: tuple[float, float] = (0.1, 2.0)) -> None:
        if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
            raise InputError(f"{list(scales)} are no two rising factors", "scale_jitter", "use e.g. [0.1, 2.0]")
        self.size, self.scales = size, scales
        _torchvision_functional()

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        least, greatest = self.scales
        long = self.size * (least + (greatest - least) * float(torch.rand(())))
        height, width = image.shape[-2:]
        scale = long / max(height, width)
        image, target = resize(image, target, (max(1, round(height * scale)), max(1, round(width * scale))), scale)
        top, left = (int(torch.randint(max(length - self.size, 0) + 1, ())) for length in image.shape[-2:])
        height, width = (min(length, self.size) for length in image.shape[-2:])
        image, target = crop(image, target, top, left, height, width)
        return image, boxes_of_masks(target) if "masks" in target else target


def boxes_of_masks(target: Target) -> Target:
    """``boxes`` drawn around the masks, and what belongs to them, without those whose mask is empty."""
    masks = target["masks"] > 0
    kept = masks.flatten(1).any(1)
    moved = {**target, **{field: target[field][kept] for field in _PER_BOX if field in target}}
    masks = masks[kept]
    if len(masks):
        sides = []
        for seen in (masks.any(1), masks.any(2)):  # columns, rows
            length = seen.shape[1]
            sides += [seen.int().argmax(1), length - seen.flip(1).int().argmax(1)]
        moved["boxes"] = torch.stack([sides[0], sides[2], sides[1], sides[3]], 1).to(target["boxes"])
    return moved


def crop(image: Tensor, target: Target, top: int, left: int, height: int, width: int) -> tuple[Tensor, Target]:
    """A window of a sample; its boxes, clipped, and what belongs to them, without those of no area inside."""
    offset, limit = torch.tensor([left, top] * 2), torch.tensor([width, height] * 2)
    moved = {
        field: torch.minimum((target[field] - offset).clamp(min=0), limit) for field in BOX_FIELDS if field in target
    }
    kept = (moved["boxes"][:, 2:] > moved["boxes"][:, :2]).all(1)
    window: dict[str, Any] = {**target, **moved, "size": (height, width)}
    if "masks" in window:
        window["masks"] = window["masks"][:, top : top + height, left : left + width]
    window |= {field: window[field][kept] for field in _PER_BOX if field in window}
    return image[:, top : top + height, left : left + width].contiguous(), window
