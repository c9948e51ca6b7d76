"""What the authors' code computes beside the method, without any effect on it (section 3.4 of the notes).

Their checkpoints hold the parameters of an auxiliary head; :func:`dqnet.official.unused_entries` keeps them for an
exact round trip. Nothing here takes part in training or inference. The notes do not say how the head resizes or what
the attention loss compares; both were found by trying what reproduces the reference numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

_START, _END = 0.3, 0.7  # shares of the iterations between which the linear coefficient grows


class AuxiliaryHead(nn.Module):
    """Probabilities from the inputs of the four stages, each by one convolution: ``aux_head`` of the authors' files.

    Args:
        in_channels: of the maps.
    """

    def __init__(self, in_channels: Sequence[int] = (64, 256, 512, 1024)) -> None:
        super().__init__()
        self.head = nn.ModuleList(nn.Conv2d(channels, 1, 3, padding=1) for channels in in_channels)

    def forward(self, maps: Sequence[Tensor], side: int) -> list[Tensor]:
        """Maps ``(B, C_i, h_i, w_i)`` to probabilities ``(B, 1, side, side)``, bicubic and so not always in [0, 1]."""
        found = (conv(x).sigmoid() for conv, x in zip(self.head, maps, strict=True))
        return [F.interpolate(p, size=(side, side), mode="bicubic", align_corners=False) for p in found]


def attention_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of an attention's logits with which pairs of patches are both of the object.

    Args:
        logits: ``(B, 1, N, N)`` of the patches of a square grid.
        masks: ``(B, 1, H, W)`` in [0, 1].
    """
    side = math.isqrt(logits.shape[-1])
    patches = F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=False).flatten(2)
    return F.binary_cross_entropy_with_logits(logits, (patches.mT @ patches)[:, None])


def uncertainty_coefficient(progress: float, kind: Literal["linear", "cos"]) -> float:
    """Weight of ZoomNet's uncertainty loss at a share of the iterations in [0, 1]: from 0 to 1."""
    if kind == "cos":
        return (1 - math.cos(math.pi * progress)) / 2
    return min(1.0, max(0.0, (progress - _START) / (_END - _START)))
