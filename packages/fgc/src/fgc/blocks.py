"""Residual blocks with a gate: the structure all gated networks share, and the block of the CIFAR networks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gate import HIDDEN, ChannelGate


class ConvNorm(NamedTuple):
    """A convolution and the batch norm behind it."""

    conv: nn.Conv2d
    norm: nn.Module


class GatedBlock(nn.Module):
    """A residual block in which a gate switches the channels between two convolutions.

    ::

        h   = relu(norm(producer(before(x))))
        out = relu(norm(consumer(h * gate(x))) + shortcut(x))

    The gate sees the block's input, so it is known before the producer runs: of the producer the filters, of the
    consumer the input channels that are off need not be computed. Subclasses say which layers these are.

    Attributes:
        gate: the gate.
        feature: ``(B, C)``, ``h`` averaged over the image before gating, without gradient, of the last forward pass
            (section 3.2: what the coupling takes as the block's feature); None before the first.
    """

    gate: ChannelGate

    def __init__(self) -> None:
        super().__init__()
        self.feature: Tensor | None = None

    @property
    def producer(self) -> ConvNorm:
        """The convolution whose output channels are gated."""
        raise NotImplementedError

    @property
    def consumer(self) -> ConvNorm:
        """The convolution that reads the gated channels."""
        raise NotImplementedError

    def before(self, x: Tensor) -> Tensor:
        """What runs ahead of the producer, for every image."""
        return x

    def shortcut(self, x: Tensor) -> Tensor:
        """The other branch."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` to ``(B, C_out, H', W')``."""
        producer, consumer = self.producer, self.consumer
        inner = torch.relu_(producer.norm(producer.conv(self.before(x))))
        self.feature = inner.detach().mean((2, 3))
        out = consumer.norm(consumer.conv(inner * self.gate(x)))
        return torch.relu_(out + self.shortcut(x))

    def __getstate__(self) -> dict[str, Any]:
        """Without what the last forward pass left."""
        return {**self.__dict__, "feature": None}


class GatedBasicBlock(GatedBlock):
    """The basic block of the CIFAR networks with a gate (section 3.2); keys as in the authors' checkpoints.

    The shortcut has no parameters: where the block halves the image and doubles the channels, every second pixel is
    taken and the missing channels are zeros, half of them before and half behind (He et al. 2016, option A).

    Args:
        in_channels, channels: of the input and of both convolutions; ``channels`` is equal or twice as large.
        stride: of the first convolution.
        hidden: width of the gate's perceptron.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.gate = ChannelGate(in_channels, channels, hidden)
        self.stride, self.padding = stride, (channels - in_channels) // 2

    @property
    def producer(self) -> ConvNorm:
        """``conv1`` and ``bn1``."""
        return ConvNorm(self.conv1, self.bn1)

    @property
    def consumer(self) -> ConvNorm:
        """``conv2`` and ``bn2``."""
        return ConvNorm(self.conv2, self.bn2)

    def shortcut(self, x: Tensor) -> Tensor:
        """The input, subsampled and padded with channels of zeros where the shape changes."""
        if self.stride == 1 and self.padding == 0:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


def gated_blocks(network: nn.Module) -> list[GatedBlock]:
    """The gated blocks of a network in its order; their positions are the block numbers used everywhere."""
    return [module for module in network.modules() if isinstance(module, GatedBlock)]
