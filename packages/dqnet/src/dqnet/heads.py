"""The decoders: from maps to one map of logits in the size of the image (section 3.4 of the notes)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from vireo.errors import InputError

_A = -0.75  # of torch's cubic kernel


class SimpleFusionHead(nn.Module):
    """Every map to one width; neighbours summed in the finer one's size; all concatenated in the finest size; two
    convolutions.

    Args:
        in_channels: of the four maps of a ResNet, finest first, and, if there is a fifth, of the query map.
        width: channels inside.
        stride: pixels of the image between two places of the finest map.

    Raises:
        InputError: another number of maps.
    """

    def __init__(self, in_channels: Sequence[int], width: int = 256, stride: int = 4) -> None:
        super().__init__()
        if len(in_channels) not in (4, 5):
            remedy = "give the four of a ResNet, and perhaps the query map"
            raise InputError(f"{len(in_channels)} maps", type(self).__name__, remedy)
        self.stride = stride
        self.down = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        parts = len(in_channels) - 1
        self.fuse = nn.Sequential(
            nn.Conv2d(parts * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(B, C_i, H_i, W_i)`` to logits ``(B, 1, stride * H_0, stride * W_0)``."""
        c0, c1, c2, c3, *query = (down(x) for down, x in zip(self.down, maps, strict=True))
        # each sum takes its neighbour as it is, not the sum before it
        parts = [*query, _resize(c3, c2) + c2, _resize(c2, c1) + c1]
        fused = self.fuse(torch.cat([*(_resize(part, c0) for part in parts), _resize(c1, c0) + c0], 1))
        return _enlarge(self.head(fused), self.stride)


class QueryMapHead(nn.Module):
    """Logits from the query map alone, the control without a ResNet: 1x1, 3x3 and 3x3 convolutions.

    Args:
        dim: channels of the map.
        width: channels inside.
        stride: pixels of the image between two of its places.
    """

    def __init__(self, dim: int, width: int = 256, stride: int = 16) -> None:
        super().__init__()
        self.stride = stride
        self.down = nn.Conv2d(dim, width, 1)
        self.fuse = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The map ``(B, D, h, w)``, the only one of the sequence, to logits ``(B, 1, stride * h, stride * w)``."""
        (query_map,) = maps
        return _enlarge(self.head(self.fuse(self.down(query_map))), self.stride)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Bicubic with aligned corners, to the size of another map."""
    return bicubic(x, (like.shape[-2], like.shape[-1]), align_corners=True)


def _enlarge(logits: Tensor, factor: int) -> Tensor:
    """Bicubic, corners not aligned, by a factor."""
    return bicubic(logits, (factor * logits.shape[-2], factor * logits.shape[-1]), align_corners=False)


def bicubic(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bicubic resize as two products with small matrices, in float32 at least.

    Equal to torch's ``interpolate`` up to rounding, whose backward pass is many times slower on a CPU, and adds up in
    no fixed order on a GPU.

    Args:
        x: ``(B, C, H, W)``.
        size: (height, width) of the result.
        align_corners: as in torch.
    """
    height, width = x.shape[-2:]
    if (height, width) == size:
        return x
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        kind = str(wide.dtype).removeprefix("torch.")
        rows = _weights(height, size[0], align_corners, kind).to(wide)
        columns = _weights(width, size[1], align_corners, kind).to(wide)
        return (rows @ (wide @ columns.T)).to(x.dtype)


@torch.compiler.assume_constant_result
def _weights(old: int, new: int, align_corners: bool, kind: str) -> Tensor:
    """What each of ``old`` places of a line gives to each of ``new``: ``(new, old)``, on the CPU.

    Computed in the type ``kind``, ``float32`` or ``float64``: positions round as torch's do.
    """
    return torch.from_numpy(_cubic_weights(old, new, align_corners, kind))


@lru_cache(maxsize=64)  # of arrays: tensors that are made while a graph is traced are none
def _cubic_weights(old: int, new: int, align_corners: bool, kind: str) -> np.ndarray:
    places, number = np.arange(new).astype(kind), np.dtype(kind).type
    if align_corners:
        position = places * (number(old - 1) / number(max(1, new - 1)))
    else:
        position = (places + number(0.5)) * (number(old) / number(new)) - number(0.5)
    weights = np.zeros((new, old), kind)
    for tap in range(-1, 3):
        place = np.floor(position) + tap
        t = np.abs(position - place)
        near = ((_A + 2) * t - (_A + 3)) * t * t + 1  # t <= 1
        far = ((_A * t - 5 * _A) * t + 8 * _A) * t - 4 * _A  # 1 < t <= 2
        np.add.at(weights, (np.arange(new), np.clip(place, 0, old - 1).astype(int)), np.where(t <= 1, near, far))
    return weights
