"""Heads that turn feature maps into class scores; parameters are named as in mmsegmentation's checkpoints.

Batch normalisation is over the batches of all processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.backbones import GlobalBatchNorm2d
from vireo.errors import InputError

POOL_SCALES = (1, 2, 3, 6)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; the size of the map stays.

    Args:
        in_channels, out_channels: of the maps.
        kernel_size: odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = GlobalBatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H, W)``."""
        return F.relu(self.bn(self.conv(x)))


def resize_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners not aligned, to ``size`` (h, w)."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """The last 1x1 convolution."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class UPerHead(nn.Module):
    """Pyramid pooling on the coarsest map, then a top-down pyramid over all (Xiao et al., "UPerNet", ECCV 2018).

    Args:
        in_channels: of the maps, finest first; at least two.
        num_classes: of the scores.
        channels: inside the head.
        dropout: probability of leaving out a channel before the last layer.

    Raises:
        InputError: fewer than two maps.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, channels: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        if len(in_channels) < 2:
            raise InputError(f"{len(in_channels)} map", "UPerHead", "Give at least two, finest first")
        *finer, coarsest = in_channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNormAct(coarsest, channels, 1)) for scale in POOL_SCALES
        )
        self.bottleneck = ConvNormAct(coarsest + len(POOL_SCALES) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNormAct(c, channels, 1) for c in finer)
        self.fpn_convs = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in finer)
        self.fpn_bottleneck = ConvNormAct(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = classifier(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(B, C_i, H_i, W_i)``, finest first, to scores ``(B, num_classes, H_0, W_0)``."""
        *finer, coarsest = maps
        pooled = [resize_to(module(coarsest), coarsest.shape[-2:]) for module in self.psp_modules]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, finer)]
        laterals.append(self.bottleneck(torch.cat([coarsest, *pooled], 1)))
        for level in range(len(finer), 0, -1):
            below = laterals[level - 1]
            laterals[level - 1] = below + resize_to(laterals[level], below.shape[-2:])
        levels = [*(conv(x) for conv, x in zip(self.fpn_convs, laterals)), laterals[-1]]
        fused = self.fpn_bottleneck(torch.cat([resize_to(x, levels[0].shape[-2:]) for x in levels], 1))
        scores: Tensor = self.conv_seg(self.dropout(fused))
        return scores


class FCNHead(nn.Module):
    """3x3 convolutions on one of the maps, the auxiliary head of training (Long et al., "FCN", CVPR 2015).

    Args:
        in_channels: of that map.
        num_classes: of the scores.
        channels: inside the head.
        num_convs: 3x3 convolutions.
        index: of the map among those given.
        dropout: see :class:`UPerHead`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 1,
        index: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.index = index
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.Sequential(*(ConvNormAct(a, b, 3) for a, b in itertools.pairwise(widths)))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = classifier(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(B, C_i, H_i, W_i)`` to scores ``(B, num_classes, H, W)`` of the size of the chosen one."""
        scores: Tensor = self.conv_seg(self.dropout(self.convs(maps[self.index])))
        return scores
