# mypy: disallow-untyped-defs=False
"""Triton kernels of ragged execution; imported on demand, since Triton need not be there.

Every image has its own list of active channels. Sizes: B images, C gated channels, P positions of a map, ``index[b]``
the active channels of image b in ascending order, of which ``counts[b]`` are valid. Tensors are contiguous.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _produce(
    x_ptr, weight_ptr, bias_ptr, index_ptr, counts_ptr, out_ptr, channels, gated, height, width, out_width, positions,
    stride, padding, KERNEL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """relu(conv(x, W1[index], b1[index])) of one image, tile of positions and tile of active channels."""
    image, tile = tl.program_id(0).to(tl.int64), tl.program_id(2)
    count = tl.load(counts_ptr + image)
    if tile * BN >= count:
        return
    position = tl.program_id(1) * BM + tl.arange(0, BM)
    slot = tile * BN + tl.arange(0, BN)
    active = slot < count
    filters = tl.load(index_ptr + image * gated + slot, mask=active, other=0)
    row, col = position // out_width * stride - padding, position % out_width * stride - padding
    acc = tl.zeros((BM, BN), tl.float32)
    for tap in range(KERNEL * KERNEL):
        y, z = row + tap // KERNEL, col + tap % KERNEL
        inside = (position < positions) & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        for start in range(0, channels, BK):
            channel = start + tl.arange(0, BK)
            known = channel < channels
            pixels = ((image * channels + channel) * height)[None, :] * width + (y * width + z)[:, None]
            seen = tl.load(x_ptr + pixels, mask=inside[:, None] & known[None, :], other=0.0)
            weights = (filters[None, :] * KERNEL * KERNEL + tap) * channels + channel[:, None]
            weight = tl.load(weight_ptr + weights, mask=known[:, None] & active[None, :], other=0.0)
            acc = tl.dot(seen, weight, acc, input_precision=PRECISION)
    acc += tl.load(bias_ptr + filters, mask=active, other=0.0)[None, :]
    acc = tl.where(acc <= 0, 0.0, acc)  # keeps what is not a number
    target = (image * gated + slot)[None, :] * positions + position[:, None]
    tl.store(out_ptr + target, acc, mask=(position < positions)[:, None] & active[None, :])


@triton.jit
def _consume(
    h_ptr, weight_ptr, bias_ptr, index_ptr, counts_ptr, shortcut_ptr, out_ptr, outputs, gated, height, width, out_width,
    positions, stride, padding, KERNEL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """relu(conv(h, W2[:, index], b2) + shortcut) of one image, tile of positions and tile of output channels."""
    image = tl.program_id(0).to(tl.int64)
    count = tl.load(counts_ptr + image)
    position = tl.program_id(1) * BM + tl.arange(0, BM)
    output = tl.program_id(2) * BN + tl.arange(0, BN)
    row, col = position // out_width * stride - padding, position % out_width * stride - padding
    acc = tl.zeros((BM, BN), tl.float32)
    for tap in range(KERNEL * KERNEL):
        y, z = row + tap // KERNEL, col + tap % KERNEL
        inside = (position < positions) & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        for start in range(0, count, BK):
            slot = start + tl.arange(0, BK)
            active = slot < count
            inputs = tl.load(index_ptr + image * gated + slot, mask=active, other=0)
            pixels = ((image * gated + slot) * height)[None, :] * width + (y * width + z)[:, None]
            seen = tl.load(h_ptr + pixels, mask=inside[:, None] & active[None, :], other=0.0)
            weights = (tap * gated + inputs)[:, None] * outputs + output[None, :]
            weight = tl.load(weight_ptr + weights, mask=active[:, None] & (output < outputs)[None, :], other=0.0)
            acc = tl.dot(seen, weight, acc, input_precision=PRECISION)
    acc += tl.load(bias_ptr + output, mask=output < outputs, other=0.0)[None, :]
    target = (image * outputs + output)[None, :] * positions + position[:, None]
    valid = (position < positions)[:, None] & (output < outputs)[None, :]
    acc += tl.load(shortcut_ptr + target, mask=valid, other=0.0)
    tl.store(out_ptr + target, tl.where(acc <= 0, 0.0, acc), mask=valid)


def active_channels(on: Tensor) -> tuple[Tensor, Tensor]:
    """Counts ``(B,)`` and index lists ``(B, C)``, int32, of what is on, without waiting for the device.

    Args:
        on: bool ``(B, C)``. Slots of the lists behind the count hold 0.
    """
    channels = on.shape[1]
    slot = torch.where(on, on.cumsum(1) - 1, channels)
    index = torch.zeros(len(on), channels + 1, dtype=torch.int32, device=on.device)
    numbers = torch.arange(channels, dtype=torch.int32, device=on.device).expand_as(on)
    index.scatter_(1, slot, numbers)  # what is off falls into the last column
    return on.sum(1, dtype=torch.int32), index[:, :channels].contiguous()


def ragged_pair(
    x: Tensor, on: Tensor, producer: tuple[Tensor, Tensor, int, int, int],
    consumer: tuple[Tensor, Tensor, int, int, int], shortcut: Tensor, precision: str = "ieee",
) -> Tensor:  # fmt: skip
    """``relu(consumer(relu(producer(x)) * on) + shortcut)``, computing only what is on.

    Args:
        x: float32 ``(B, C_in, H, W)``.
        on: bool ``(B, C)``.
        producer: weights ``(C, taps, C_in)``, bias ``(C,)``, kernel size, stride, padding.
        consumer: weights ``(taps, C, C_out)``, bias ``(C_out,)``, kernel size, stride, padding.
        shortcut: ``(B, C_out, H'', W'')``.
        precision: of the products: ``"ieee"`` float32, or ``"tf32"``.
    """
    x, shortcut = x.contiguous(), shortcut.contiguous()
    (batch, channels, height, width), gated = x.shape, on.shape[1]
    counts, index = active_channels(on)
    weight, bias, kernel, stride, padding = producer
    rows, cols = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    positions, tile, wide = rows * cols, *_tiles(rows * cols)
    inner = x.new_empty(batch, gated, rows, cols)
    _produce[batch, triton.cdiv(positions, tile), triton.cdiv(gated, wide)](
        x, weight, bias, index, counts, inner, channels, gated, height, width, cols, positions, stride, padding,
        KERNEL=kernel, BM=tile, BN=wide, BK=32 if channels >= 32 else 16, PRECISION=precision,
    )  # fmt: skip
    weight, bias, kernel, stride, padding = consumer
    out = torch.empty_like(shortcut)
    outputs, positions = out.shape[1], out.shape[2] * out.shape[3]
    tile, wide = _tiles(positions)
    _consume[batch, triton.cdiv(positions, tile), triton.cdiv(outputs, wide)](
        inner, weight, bias, index, counts, shortcut, out, outputs, gated, rows, cols, out.shape[3], positions,
        stride, padding, KERNEL=kernel, BM=tile, BN=wide, BK=32 if gated >= 32 else 16, PRECISION=precision,
    )  # fmt: skip
    return out


def _tiles(positions: int) -> tuple[int, int]:
    """Positions and channels of a tile: narrow in channels, so that little is computed for nothing."""
    return (128, 32) if positions >= 128 else (64, 32) if positions > 32 else (16, 16)
