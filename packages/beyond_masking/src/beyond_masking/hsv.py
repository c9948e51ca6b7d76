"""Hue, saturation and value in the 8-bit convention of OpenCV, on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def rgb_to_hsv(levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels 0 .. 255 ``(..., 3, H, W)`` to hue in half degrees (0 .. 180), saturation and value (0 .. 255).

    All three are cut to integers, as the released code does.

    Returns:
        Three float32 tensors ``(..., H, W)`` of whole numbers.
    """
    red, green, blue = (levels.double() / 255).unbind(-3)  # double: cutting to integers shows the last bit
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    degrees = torch.where(
        value == red,
        60 * (green - blue) / divisor,
        torch.where(value == green, 60 * (blue - red) / divisor + 120, 60 * (red - green) / divisor + 240),
    )
    degrees = torch.where(degrees < 0, degrees + 360, degrees)
    saturation = torch.where(value > 0, chroma / torch.where(value > 0, value, torch.ones_like(value)), chroma)
    return (degrees.float() / 2).trunc(), (saturation * 255).trunc().float(), (value * 255).trunc().float()


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The inverse, to whole levels 0 .. 255, float32 ``(..., 3, H, W)``."""
    s = saturation / 255
    sector = hue / 30  # six of them
    parts = []
    for offset in (5, 3, 1):  # red, green, blue
        k = (offset + sector) % 6
        parts.append(value * (1 - s * torch.minimum(k, 4 - k).clamp(0, 1)))
    return torch.stack(parts, -3).round()


def desaturated(levels: Tensor, ratio: float) -> Tensor:
    """Levels 0 .. 255 ``(..., 3, H, W)`` with the saturation multiplied by ``ratio``, as whole levels."""
    hue, saturation, value = rgb_to_hsv(levels)
    return hsv_to_rgb(hue, (saturation * ratio).trunc(), value)
