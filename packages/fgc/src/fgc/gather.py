"""Execution at batch 1: only the filters and input channels that are on are gathered and computed (section 11).

Two layouts, because no single kernel is best at all widths (measured on AVX2, one thread):

- *planar* (NCHW) below 32 channels: both convolutions as a matrix product with the unfolded input, which loses nothing
  at odd channel counts;
- *channels last* from 32 channels: large producers as a convolution with the gathered filters; consumers as a matrix
  product with weights kept in the order (tap, input channel, output channel), so that the gather copies whole rows and
  nothing is transposed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import GatedBlock
from .folding import FoldedBlock, bias_of
from .unfolding import Unfold

PLANAR_BELOW = 32  # gated channels
ROUND_UP = 16  # channels last: the matrix product works in columns of 16
PRODUCER_CONVOLVES = 16384  # gated values from which the library's convolution beats the matrix product
CONSUMER_CONVOLVES = 1024  # output positions, likewise
_SIZES = 4  # image sizes whose scratch memory is kept


class GatherBlock(FoldedBlock):
    """A folded block that computes the channels that are on, for one image; other batches are computed masked.

    Not to be called from several threads at once: its scratch memory is kept between calls.
    """

    rows: Tensor
    row_bias: Tensor
    columns: Tensor
    all_on: Tensor
    filler: Tensor

    def __init__(self, block: GatedBlock) -> None:
        super().__init__(block)
        self.supported = self.plain_convolutions()
        width = self.producer.out_channels
        self.planar = width < PLANAR_BELOW
        # one more channel of zeros, with which lists of channels are filled up
        filters = F.pad(self.producer.weight.detach(), (0, 0, 0, 0, 0, 0, 0, 1))
        inputs = F.pad(self.consumer.weight.detach(), (0, 0, 0, 0, 0, 1))
        if self.planar:
            rows, columns = filters, inputs.permute(1, 2, 3, 0).flatten(1)
        else:
            rows = filters.permute(0, 2, 3, 1)
            columns = inputs.permute(2, 3, 1, 0).flatten(0, 1)
        self.register_buffer("rows", rows.flatten(1).contiguous(), persistent=False)
        self.register_buffer("row_bias", F.pad(bias_of(self.producer), (0, 1)), persistent=False)
        self.register_buffer("columns", columns.contiguous(), persistent=False)
        self.register_buffer("all_on", torch.arange(width), persistent=False)
        self.register_buffer("filler", torch.full((ROUND_UP,), width), persistent=False)
        self._scratch: dict[tuple[object, ...], tuple[Unfold, Unfold]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """``(1, C_in, H, W)`` to ``(1, C_out, H', W')``."""
        if not self.supported or len(x) != 1:
            return super().forward(x)
        rows, bias, columns, width = self.rows, self.row_bias, self.columns, self.producer.out_channels
        side = 0 if self.planar else 1
        if self.gate is None:
            rows, bias, columns = rows[:width], bias[:width], columns.narrow(side, 0, width)
        else:
            on = torch.masked_select(self.all_on, self.gate.single(x) > 0)
            count = on.shape[0]
            if count == 0:
                return torch.relu(bias_of(self.consumer)[:, None, None] + self.shortcut(x))
            if not self.planar and count % ROUND_UP:
                on = torch.cat((on, self.filler[: -count % ROUND_UP]))
            rows, bias = rows.index_select(0, on), bias.index_select(0, on)
            columns = columns.index_select(side, on)
        inner = self.before(x)
        first, second = self._unfolds(inner)
        out = self._consume(self._produce(inner, rows, bias, first), columns, second)
        return torch.relu_(out.add_(self.shortcut(x)))

    def _produce(self, x: Tensor, rows: Tensor, bias: Tensor, unfold: Unfold) -> Tensor:
        """The producer's channels of ``rows`` before the activation: ``(channels, H', W')``."""
        height, width = unfold.size
        if self.planar:
            return torch.addmm(bias[:, None], rows, unfold(x[0], relu=False)).view(-1, height, width)
        conv = self.producer
        if conv.out_channels * height * width < PRODUCER_CONVOLVES:
            product = torch.addmm(bias, unfold(x[0], relu=False), rows.t())
            return product.view(height, width, -1).permute(2, 0, 1)
        weight = rows.view(-1, *conv.kernel_size, conv.in_channels).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding)[0]

    def _consume(self, inner: Tensor, columns: Tensor, unfold: Unfold) -> Tensor:
        """The consumer on what the producer gave, ``(1, C_out, H'', W'')``."""
        conv, (height, width) = self.consumer, unfold.size
        if self.planar:
            weight = columns.view(-1, conv.out_channels).t()
            return torch.addmm(bias_of(conv)[:, None], weight, unfold(inner, relu=True)).view(1, -1, height, width)
        if height * width > CONSUMER_CONVOLVES:
            weight = columns.view(*conv.kernel_size, -1, conv.out_channels).permute(3, 2, 0, 1)
            return F.conv2d(torch.relu_(inner)[None], weight, bias_of(conv), conv.stride, conv.padding)
        product = torch.addmm(bias_of(conv), unfold(inner, relu=True), columns.reshape(-1, conv.out_channels))
        return product.view(1, height, width, -1).permute(0, 3, 1, 2)

    def _unfolds(self, x: Tensor) -> tuple[Unfold, Unfold]:
        key = (x.shape, x.device, x.dtype)
        found = self._scratch.get(key)
        if found is None:
            if len(self._scratch) == _SIZES:
                self._scratch.clear()
            conv = self.consumer
            first = Unfold(self.producer, x.shape[2], x.shape[3], self.planar, x.shape[1], x)
            capacity = conv.in_channels if self.planar else -(-conv.in_channels // ROUND_UP) * ROUND_UP
            found = self._scratch[key] = first, Unfold(conv, *first.size, self.planar, capacity, x)
        return found

    def __getstate__(self) -> dict[str, object]:
        """Without the scratch memory."""
        return {**self.__dict__, "_scratch": {}}


class OpenBlock(GatherBlock):
    """The same kernels with every gate open and none computed: the base line."""

    def __init__(self, block: GatedBlock) -> None:
        super().__init__(block)
        self.gate = None
