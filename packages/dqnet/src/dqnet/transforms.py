"""From stored images and masks to batches: flips and rotation in the worker, the rest on the device (section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vireo.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vireo.errors import InputError

Target = dict[str, Any]


def binary_mask(mask: Tensor) -> Tensor:
    """What training takes a stored mask for: stretched to the whole range, and foreground above half of it.

    A mask of one value is not stretched: all foreground above 127, else empty.

    Args:
        mask: uint8 ``(H, W)``.

    Returns:
        float32 ``(H, W)`` of 0 and 1.
    """
    low, high = (int(value) for value in mask.aminmax())
    low, high = (low, high) if low < high else (0, 255)
    return (mask.int() - low > (high - low) / 2).float()


class FlipRotate:
    """Mirror and rotate an image and its mask, which becomes soft at its edge; runs in the worker.

    The rotation is OpenCV's about (W / 2, H / 2), bilinear, mirrored at the border.

    Args:
        flip: probability of mirroring left and right.
        vertical_flip: probability of mirroring up and down.
        rotate: probability of rotating.
        limit: degrees; angles are uniform in [-limit, limit].

    Returns of a call:
        Image uint8 ``(3, H, W)``, and the target with ``mask`` float16 ``(H, W)`` in [0, 1].

    Raises:
        InputError: a probability outside [0, 1], or a limit outside [0, 180].
    """

    def __init__(self, flip: float = 0.5, vertical_flip: float = 0.0, rotate: float = 0.5, limit: float = 10.0) -> None:
        for name, p in (("flip", flip), ("vertical_flip", vertical_flip), ("rotate.p", rotate)):
            if not 0 <= p <= 1:
                raise InputError(f"{p} is no probability", f"data.{name}", "use a number from 0 to 1")
        if not 0 <= limit <= 180:
            raise InputError(f"{limit} degrees", "data.rotate.limit", "use a number from 0 to 180")
        self.flip, self.vertical_flip, self.rotate, self.limit = flip, vertical_flip, rotate, limit

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        left, up, turn, angle = torch.rand(4).tolist()  # always four, so that one choice does not move the others
        angle = (2 * angle - 1) * self.limit if turn < self.rotate else None
        image, mask = flip_rotate(image, target["mask"], left < self.flip, up < self.vertical_flip, angle)
        return image, {**target, "mask": mask}


def flip_rotate(
    image: Tensor, mask: Tensor, left: bool = False, up: bool = False, angle: float | None = None
) -> tuple[Tensor, Tensor]:
    """One draw of :class:`FlipRotate`: mirrored left and right, up and down, then rotated by ``angle`` degrees.

    Returns:
        uint8 ``(3, H, W)`` and float16 ``(H, W)`` in [0, 1], which is off by 3e-4 at most.
    """
    soft = binary_mask(mask)
    if axes := [-1] * left + [-2] * up:
        image, soft = image.flip(axes), soft.flip(axes)
    if angle is not None:
        height, width = soft.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)

        def warp(pixels: np.ndarray) -> Tensor:
            pixels = np.ascontiguousarray(pixels)
            turned = cv2.warpAffine(
                pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
            )
            return torch.from_numpy(turned)

        image, soft = warp(image.permute(1, 2, 0).numpy()).permute(2, 0, 1), warp(soft.numpy())
    return image, soft.half()


class StackImages:
    """Normalise images by ImageNet's mean and deviation and resize them to a square, on the device they are on.

    Bilinear without antialiasing, as published. Resizing before normalising is the same but for rounding, and needs no
    second copy of the large image.

    Args:
        size: side of the square in pixels.
        train: resize the masks too and stack the targets; else they stay as they came, a list.

    Returns of a call:
        float32 ``(B, 3, size, size)`` and the targets; in training a dict of tensors, ``mask`` float32
        ``(B, 1, size, size)`` in [0, 1] among them.
    """

    def __init__(self, size: int, train: bool) -> None:
        self.size, self.train = size, train
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def __call__(self, images: Sequence[Tensor], targets: list[Target]) -> tuple[Tensor, Any]:
        if self.mean.device != images[0].device:
            self.mean, self.std = self.mean.to(images[0].device), self.std.to(images[0].device)
        batch = self._resized(images).sub_(self.mean).div_(self.std)
        if not self.train:
            return batch, targets
        masks = self._resized([target["mask"][None] for target in targets])
        others = [name for name, value in targets[0].items() if isinstance(value, Tensor) and name != "mask"]
        stacked = {name: torch.stack([target[name] for target in targets]) for name in others}
        return batch, {"mask": masks, **stacked}

    def _resized(self, maps: Sequence[Tensor]) -> Tensor:
        """``(C, h, w)`` of any type and sizes to one float32 batch."""
        size = (self.size, self.size)
        if maps[0].is_cuda and len({each.shape for each in maps}) == 1:  # few large kernels
            return resize(torch.stack(list(maps)).float(), size)
        return torch.cat([resize(each[None].float(), size) for each in maps])


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear to ``size`` (height, width) without antialiasing: OpenCV's ``INTER_LINEAR``; float ``(B, C, H, W)``."""
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def probability_to_uint8(probability: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A predicted map as it is scored and saved: resized to the mask, times 255, decimals cut off (section 3.6).

    Args:
        probability: ``(h, w)`` in [0, 1], on any device.
        size: height and width of the mask in pixels.

    Returns:
        uint8 ``(H, W)``.
    """
    resized = resize(probability.detach()[None, None].float(), size)[0, 0]
    return (resized * 255).to(torch.uint8).cpu().numpy()
