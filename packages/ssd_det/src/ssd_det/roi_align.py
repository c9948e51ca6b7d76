"""RoIAlign: torchvision's on a GPU, a sparse product on a CPU.

torchvision's CPU kernel is single-threaded and scatters its gradient channel by channel; the refiner's thousands of
boxes an image then take most of a training step. The operation is linear in the map, so on a CPU the bilinear weights
are written as one sparse matrix and multiplied by the map, channels last: forward and backward become vectorised,
threaded products with the same numbers up to rounding (see the tests).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torchvision import ops


def roi_align(features: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """Aligned RoIAlign with adaptive sampling (``aligned=True, sampling_ratio=0``).

    Args:
        features: ``(B, C, H, W)``; half precision is read as float32, because boxes do not survive it.
        rois: ``(R, 5)``: image index and ``x1, y1, x2, y2`` in input pixels; without gradient.
        size: side of the output.
        scale: map pixels per input pixel.

    Returns:
        ``(R, C, size, size)``.
    """
    if features.dtype in (torch.bfloat16, torch.float16):
        features = features.float()
    plain = features.device.type != "cpu" or features.dtype != torch.float32 or not torch.backends.mkl.is_available()
    if plain or len(rois) == 0:
        return ops.roi_align(features, rois.to(features.dtype), size, scale, sampling_ratio=0, aligned=True)
    batch, channels, height, width = features.shape
    rows, columns, weights, counts = _taps(rois.detach(), size, scale, height, width)
    table = features.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    pooled = _SparseRows.apply(table, counts, columns, weights)  # (R * size * size, C) in the order of `rows`
    pooled = pooled.view(len(rois), size * size, channels)
    if rows is not None:
        pooled = pooled[rows]
    return pooled.transpose(1, 2).reshape(len(rois), channels, size, size)


def _taps(
    rois: Tensor, size: int, scale: float, height: int, width: int
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """The map pixels each output cell reads and their weights.

    A cell averages ``n x n`` bilinear samples, ``n = ceil(side / size)`` separately for height and width; along an axis
    those touch at most ``n + 1`` neighbouring pixels. Boxes are grouped by their larger ``n``.

    Returns:
        the place of every box among the groups (None: unchanged), pixel indices and weights of all cells one after
        another, and the number of pixels of every cell.
    """
    corners = rois[:, 1:] * scale - 0.5
    sides = corners[:, 2:] - corners[:, :2]
    samples = (sides / size).ceil().clamp(min=0)  # (R, 2): along x, along y
    group = samples.amax(1).long().clamp(min=1)
    columns, weights, counts, members = [], [], [], []
    for n in group.unique().tolist():
        member = (group == n).nonzero()[:, 0]
        start, side, count = corners[member, :2], sides[member], samples[member]
        x, along_x = _axis_taps(start[:, 0], side[:, 0], count[:, 0], size, n, width)
        y, along_y = _axis_taps(start[:, 1], side[:, 1], count[:, 1], size, n, height)
        first = rois[member, 0].long()[:, None, None] * height
        pixel = (first + y)[:, :, None, :, None] * width + x[:, None, :, None, :]
        columns.append(pixel.flatten())
        weights.append((along_y[:, :, None, :, None] * along_x[:, None, :, None, :]).flatten())
        counts.append(torch.full((len(member) * size * size,), (n + 1) ** 2))
        members.append(member)
    place = torch.cat(members).argsort() if len(members) > 1 else None
    return place, torch.cat(columns), torch.cat(weights), torch.cat(counts)


def _axis_taps(
    start: Tensor, side: Tensor, samples: Tensor, size: int, most: int, length: int
) -> tuple[Tensor, Tensor]:
    """Pixel indices and weights ``(R, size, most + 1)`` along one axis of a map with ``length`` pixels."""
    number = torch.arange(most)
    cell = (side / size)[:, None, None]
    position = start[:, None, None] + cell * (
        torch.arange(size)[:, None] + (number + 0.5) / samples.clamp(min=1)[:, None, None]
    )
    used = (number < samples[:, None, None]) & (position >= -1) & (position <= length)
    share = used / samples.clamp(min=1)[:, None, None]
    position = position.clamp(0, length - 1)
    low = position.floor()
    first = low[..., :1]
    offset = (low - first).long().clamp(max=most)
    fraction = position - low
    weight = torch.zeros(*position.shape[:2], most + 1)
    weight.scatter_add_(2, offset, (1 - fraction) * share)
    weight.scatter_add_(2, (offset + 1).clamp(max=most), fraction * share)
    return (first.long() + torch.arange(most + 1)).clamp(max=length - 1), weight


class _SparseRows(torch.autograd.Function):
    """Weighted sums of rows of a table: ``output[i]`` sums ``weights[j] * table[columns[j]]`` over its ``j``."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, counts: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
        matrix = _csr(counts, columns, weights, len(table))
        ctx.matrix = matrix
        return matrix @ table

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.matrix.t() @ gradient.contiguous(), None, None, None


def _csr(counts: Tensor, columns: Tensor, weights: Tensor, num_columns: int) -> Tensor:
    bounds = torch.zeros(len(counts) + 1, dtype=torch.int32)
    bounds[1:] = counts.cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            bounds, columns.int(), weights, (len(counts), num_columns), check_invariants=False
        )
