"""Gates for the ResNets of torchvision and timm."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .blocks import ConvNorm, GatedBlock
from .gate import HIDDEN, ChannelGate

Network = TypeVar("Network", bound=nn.Module)
_BASIC = ("conv1", "bn1", "conv2", "bn2", "downsample")
_BOTTLENECK = (*_BASIC, "conv3", "bn3")
_ACTIVATIONS = ("relu", "act1", "act2", "act3")
_EXTRAS = ("aa", "se", "drop_block", "drop_path")  # what timm's blocks may have beside these


class _AttachedBlock(GatedBlock):
    """A block of another library with its layers under their own names, so that its checkpoints still load."""

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    bn1: nn.Module
    bn2: nn.Module
    downsample: nn.Module | None

    def __init__(self, block: nn.Module, layers: tuple[str, ...], gated: int, in_channels: int, hidden: int) -> None:
        super().__init__()
        for name in layers:
            setattr(self, name, getattr(block, name))
        self.gate = ChannelGate(in_channels, gated, hidden)
        self.train(block.training)
        self.gate.to(next(block.parameters()).device)

    def shortcut(self, x: Tensor) -> Tensor:
        """The input, through ``downsample`` where there is one."""
        return x if self.downsample is None else self.downsample(x)


class AttachedBasicBlock(_AttachedBlock):
    """torchvision's or timm's ``BasicBlock``, gated between its two convolutions."""

    def __init__(self, block: nn.Module, hidden: int = HIDDEN) -> None:
        assert isinstance(block.conv1, nn.Conv2d)
        super().__init__(block, _BASIC, block.conv1.out_channels, block.conv1.in_channels, hidden)

    @property
    def producer(self) -> ConvNorm:
        """``conv1`` and ``bn1``."""
        return ConvNorm(self.conv1, self.bn1)

    @property
    def consumer(self) -> ConvNorm:
        """``conv2`` and ``bn2``."""
        return ConvNorm(self.conv2, self.bn2)


class AttachedBottleneck(_AttachedBlock):
    """torchvision's or timm's ``Bottleneck``, gated between its 3x3 and its last convolution.

    The paper has basic blocks only. Of the two places inside a bottleneck this one leaves the first 1x1 convolution to
    all images and saves most of the 3x3's work, whatever its stride and groups.
    """

    conv3: nn.Conv2d
    bn3: nn.Module

    def __init__(self, block: nn.Module, hidden: int = HIDDEN) -> None:
        assert isinstance(block.conv1, nn.Conv2d)
        assert isinstance(block.conv2, nn.Conv2d)
        super().__init__(block, _BOTTLENECK, block.conv2.out_channels, block.conv1.in_channels, hidden)

    @property
    def producer(self) -> ConvNorm:
        """``conv2`` and ``bn2``."""
        return ConvNorm(self.conv2, self.bn2)

    @property
    def consumer(self) -> ConvNorm:
        """``conv3`` and ``bn3``."""
        return ConvNorm(self.conv3, self.bn3)

    def before(self, x: Tensor) -> Tensor:
        """``conv1``, ``bn1`` and ReLU."""
        return torch.relu_(self.bn1(self.conv1(x)))


def attach_gates(model: Network, hidden: int = HIDDEN) -> Network:
    """Put a gate into every ``BasicBlock`` and ``Bottleneck`` of a ResNet, in place.

    Layers keep their names and weights, so checkpoints of the plain network load with ``strict=False`` before or
    after; gates are initialised as in the paper and about half open. Stem, shortcuts and classifier are not gated.

    Args:
        model: a ResNet of torchvision or timm, or a network with one inside.
        hidden: width of the gates' perceptrons.

    Returns:
        ``model``.

    Raises:
        InputError: no block of these kinds in ``model``, or one with layers that a gate would not commute with
            (squeeze-and-excitation, anti-aliasing, stochastic depth, an activation other than ReLU).
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__ in ("BasicBlock", "Bottleneck") and hasattr(module, "conv1")
    }
    if not found:
        raise InputError(
            "holds no BasicBlock or Bottleneck", type(model).__name__, "give a ResNet of torchvision or timm"
        )
    gated: dict[str, GatedBlock] = {}
    for name, block in found.items():
        _require_plain(name, block)
        kind = AttachedBottleneck if hasattr(block, "conv3") else AttachedBasicBlock
        gated[name] = kind(block, hidden)
    for name, replacement in gated.items():  # only now, so that a refusal leaves the model as it was
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, replacement)
    return model


def _require_plain(name: str, block: nn.Module) -> None:
    extras = [extra for extra in _EXTRAS if not isinstance(getattr(block, extra, None), nn.Identity | None)]
    odd = [act for act in _ACTIVATIONS if not isinstance(getattr(block, act, None), nn.ReLU | None)]
    if extras or odd:
        raise InputError(
            f"has {', '.join(extras + odd)}, which the gated block does not",
            f"block {name} ({type(block).__name__})",
            "take a plain ResNet: ReLU, no squeeze-and-excitation, anti-aliasing or stochastic depth",
        )
