"""Execution at batch 1: only the filters and input channels that are on are gathered and computed (section 11)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import GatedBlock
from .folding import FoldedBlock


class GatherBlock(FoldedBlock):
    """A folded block that computes the channels that are on, for one image."""

    def __init__(self, block: GatedBlock) -> None:
        super().__init__(block)

    def forward(self, x: Tensor) -> Tensor:
        """``(1, C_in, H, W)`` to ``(1, C_out, H', W')``."""
        on = torch.nonzero(self.gate(x)[0] > 0)[:, 0]
        shortcut = self.shortcut(x)
        producer, consumer = self.producer, self.consumer
        if len(on) == 0:
            return torch.relu(consumer.bias[:, None, None] + shortcut)
        if producer.groups != 1 or consumer.groups != 1:
            return super().forward(x)
        inner = F.conv2d(
            self.before(x), producer.weight[on], producer.bias[on], producer.stride, producer.padding, producer.dilation
        )
        out = F.conv2d(
            torch.relu_(inner),
            consumer.weight[:, on],
            consumer.bias,
            consumer.stride,
            consumer.padding,
            consumer.dilation,
        )
        return torch.relu_(out.add_(shortcut))
