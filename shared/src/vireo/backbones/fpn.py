"""Feature pyramid network (Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError

Norm = Literal["gn", "none"]


class ConvNorm(nn.Module):
    """Convolution with GroupNorm(32) and no bias, or with bias and no normalisation; no activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, norm: Norm, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=norm == "none")
        nn.init.xavier_uniform_(self.conv.weight)
        if norm == "gn":
            self.gn = nn.GroupNorm(min(32, out_channels // 2), out_channels)
        elif self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.gn(x) if hasattr(self, "gn") else x


class FPN(nn.Module):
    """Top-down pyramid over backbone maps, with extra levels at twice the coarsest stride and beyond.

    Parameter names follow mmdetection (``lateral_convs.{i}.conv``, ``fpn_convs.{i}.conv``, ``.gn``).

    Args:
        in_channels: channels of the backbone maps, finest first.
        out_channels: channels of every output.
        norm: ``"gn"`` puts GroupNorm(32) after every convolution, ``"none"`` is the plain pyramid.
        extra: the extra level, a stride-2 3x3 convolution of the coarsest backbone map (``"conv"``) or a stride-2
            subsampling of the coarsest output (``"pool"``, Faster R-CNN's default); ``"none"`` leaves it out.
        extra_levels: how many; each further one is made in the same way from the level before.
        outputs: how many of the backbone's levels are returned, the finest; default all. Others take part in the
            top-down path only.

    Raises:
        InputError: extra levels of a pyramid whose coarsest map is not returned.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        norm: Norm = "gn",
        extra: Literal["conv", "pool", "none"] = "conv",
        extra_levels: int = 1,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.outputs = len(in_channels) if outputs is None else outputs
        self.out_channels, self.extra = out_channels, extra
        self.extra_levels = 0 if extra == "none" else extra_levels
        if self.extra_levels and self.outputs < len(in_channels):
            what = f"extra levels would follow a gap: only {self.outputs} of {len(in_channels)} levels are returned"
            raise InputError(what, "FPN", "set extra to none, or return all levels")
        self.lateral_convs = nn.ModuleList(ConvNorm(c, out_channels, 1, norm) for c in in_channels)
        self.fpn_convs = nn.ModuleList(ConvNorm(out_channels, out_channels, 3, norm) for _ in range(self.outputs))
        if extra == "conv":
            for channels in (in_channels[-1], *[out_channels] * extra_levels)[:extra_levels]:
                self.fpn_convs.append(ConvNorm(channels, out_channels, 3, norm, stride=2))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``(B, C_i, H_i, W_i)``, finest first, to maps ``(B, out_channels, H_i, W_i)`` and the extra levels."""
        merged = [conv(x) for conv, x in zip(self.lateral_convs, features)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, merged[: self.outputs])]
        coarsest = features[-1] if self.extra == "conv" else outputs[-1]
        for i in range(self.extra_levels):
            last = self.fpn_convs[self.outputs + i] if self.extra == "conv" else _subsample
            outputs.append(coarsest := last(coarsest))
        return outputs


def _subsample(x: Tensor) -> Tensor:
    """Every second row and column."""
    return F.max_pool2d(x, kernel_size=1, stride=2)
