"""What stands before and after the stages of a super-network (section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .operators import Separable


class Downsample(nn.Module):
    """Halve the resolution: separable convolutions and a max pooling, beside a strided 1x1 convolution.

    Args:
        in_channels, out_channels: the first convolution changes them.
        repeats: separable convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, repeats: int = 1) -> None:
        super().__init__()
        convolutions = [Separable(in_channels if i == 0 else out_channels, out_channels) for i in range(repeats)]
        self.body = nn.Sequential(*convolutions, nn.MaxPool2d(3, 2, 1))
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, 2, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / 2, W / 2)"""
        out: Tensor = self.body(features) + self.shortcut(features)
        return out


class ResidualEntry(nn.Module):
    """The entry of a stage that keeps channels and resolution: a separable convolution beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Separable(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, H, W)"""
        out: Tensor = self.body(features) + features
        return out


def build_stem(name: str, width: int) -> nn.Sequential:
    """``imagenet``: to ``width`` channels at an eighth of the resolution; ``cifar``: at full resolution.

    Raises:
        InputError: another name.
    """
    if name == "imagenet":
        first = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)]
        return nn.Sequential(*first, Downsample(32, 48, 2), Downsample(48, width, 2))
    if name == "cifar":
        return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
    raise InputError(f"unknown stem {name!r}", "model.stem", "use imagenet or cifar")


class Head(nn.Module):
    """Four times as many channels, a second batch normalisation, ReLU, global average, and a linear classifier."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.final = nn.Sequential(Separable(channels, 4 * channels), nn.BatchNorm2d(4 * channels), nn.ReLU())
        self.classifier = nn.Linear(4 * channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, H, W) to logits (B, classes)"""
        logits: Tensor = self.classifier(torch.mean(self.final(features), (2, 3)))
        return logits
