"""The gated CIFAR ResNets of the paper (section 3.1; He et al. 2016, section 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vireo.engine import Pretrained
from vireo.errors import InputError

from .blocks import GatedBasicBlock
from .gate import HIDDEN

DEPTHS = {"gated_resnet20": 3, "gated_resnet32": 5, "gated_resnet56": 9}


class GatedResNet(nn.Module, Pretrained):
    """Three stages of gated basic blocks with 16, 32 and 64 channels; keys as in the authors' checkpoints.

    ``from_pretrained`` reads a folder written by ``save_pretrained`` or by ``fgc-train``, or a hub repository.

    Args:
        blocks: basic blocks of each stage; the depth is ``6 * blocks + 2``.
        num_classes: outputs.
        width: channels of the first stage.
        hidden: width of the gates' perceptrons.

    Raises:
        InputError: a size that is not positive.
    """

    def __init__(self, blocks: int, num_classes: int = 10, width: int = 16, hidden: int = HIDDEN) -> None:
        super().__init__()
        for name, value in {"blocks": blocks, "num_classes": num_classes, "width": width, "hidden": hidden}.items():
            if value < 1:
                raise InputError(f"{name} {value} is not positive", "GatedResNet", "give 1 or more")
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, hidden)
        self.layer2 = _stage(width, 2 * width, blocks, 2, hidden)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, hidden)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``(B, 3, H, W)`` to class logits ``(B, num_classes)``."""
        x = torch.relu_(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(in_channels: int, channels: int, blocks: int, stride: int, hidden: int) -> nn.Sequential:
    first = GatedBasicBlock(in_channels, channels, stride, hidden)
    return nn.Sequential(first, *(GatedBasicBlock(channels, channels, 1, hidden) for _ in range(blocks - 1)))


def gated_resnet20(num_classes: int = 10, **options: Any) -> GatedResNet:
    """Gated ResNet-20: 280,330 parameters, 10,608 of them in the gates; 40.55 M multiply-adds at 32x32."""
    return GatedResNet(DEPTHS["gated_resnet20"], num_classes, **options)


def gated_resnet32(num_classes: int = 10, **options: Any) -> GatedResNet:
    """Gated ResNet-32: 482,346 parameters; 68.86 M multiply-adds at 32x32."""
    return GatedResNet(DEPTHS["gated_resnet32"], num_classes, **options)


def gated_resnet56(num_classes: int = 10, **options: Any) -> GatedResNet:
    """Gated ResNet-56: 886,378 parameters; 125.5 M multiply-adds at 32x32."""
    return GatedResNet(DEPTHS["gated_resnet56"], num_classes, **options)
