"""The operators on an edge, and the layers around the stages (section 3.2).

Convolutions have no bias unless said; batch normalisation has PyTorch's defaults (eps 1e-5, momentum 0.1). ReLU is
never in place, as several edges read the same feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vireo.errors import InputError


class Separable(nn.Module):
    """``repeats`` times ReLU, depthwise 3x3, pointwise 1x1, batch normalisation.

    The last repetition changes the channels, the first one the resolution.

    Args:
        in_channels, out_channels: of the input and of the output.
        stride: 1, or 2 to halve the resolution (rounding up).
        repeats: how many times.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, repeats: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(repeats):
            width = out_channels if index == repeats - 1 else in_channels
            layers += [
                nn.ReLU(),
                nn.Conv2d(in_channels, in_channels, 3, stride if index == 0 else 1, 1, groups=in_channels, bias=False),
                nn.Conv2d(in_channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
            ]
        self.ops = nn.Sequential(*layers)
        self.in_channels, self.out_channels, self.stride, self.repeats = in_channels, out_channels, stride, repeats

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)"""
        out: Tensor = self.ops(features)
        return out


class FactorizedReduce(nn.Module):
    """ReLU, then two biased 1x1 convolutions with stride 2, one of them a pixel down and right, side by side, and a
    batch normalisation. Height and width must be even."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(in_channels, out_channels // 2, 1, 2)
        self.conv_2 = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, 2)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / 2, W / 2)"""
        features = F.relu(features)
        halves = [self.conv_1(features), self.conv_2(features[:, :, 1:, 1:])]
        out: Tensor = self.bn(torch.cat(halves, 1))
        return out


class ReLUConvBN(nn.Module):
    """ReLU, biased 1x1 convolution, batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.op = nn.Sequential(nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)"""
        out: Tensor = self.op(features)
        return out


class Zero(nn.Module):
    """Zeros of the input's shape; a feature that is not finite stays so, as in the authors' code (x - x)."""

    def forward(self, features: Tensor) -> Tensor:
        """Any shape."""
        return features - features


Factory = Callable[[int], nn.Module]
"""Builds an operator for so many channels; it keeps channels and resolution."""

OPERATORS: dict[str, Factory] = {
    "skip": lambda channels: nn.Identity(),
    "conv3": lambda channels: Separable(channels, channels, repeats=2),
    "sconv3": lambda channels: Separable(channels, channels),
    "none": lambda channels: Zero(),
    "avg_pool_3x3": lambda channels: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "max_pool_3x3": lambda channels: nn.MaxPool2d(3, 1, 1),
}
"""The operators by name; :func:`register_operator` adds to them."""


def register_operator(name: str, factory: Factory) -> None:
    """Make an operator of one's own known to spaces, super-networks and derived networks.

    Args:
        name: how genotypes call it.
        factory: builds the module for a number of channels; (B, C, H, W) to the same shape.

    Raises:
        InputError: another operator has the name.
    """
    if name in OPERATORS:
        raise InputError(f"operator {name!r} exists already", "register_operator", "choose another name")
    OPERATORS[name] = factory


def build_operator(name: str, channels: int) -> nn.Module:
    """The operator ``name`` for ``channels`` channels, at stride 1.

    Raises:
        InputError: there is none of that name.
    """
    if name not in OPERATORS:
        remedy = f"use {', '.join(sorted(OPERATORS))}, or register it with register_operator"
        raise InputError(f"unknown operator {name!r}", "if_nas.operators", remedy)
    return OPERATORS[name](channels)
