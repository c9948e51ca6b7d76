"""Execution at batch 1: only the filters and input channels that are on are gathered and computed (section 11).

Two layouts, because no single kernel is best at all sizes (measured on AVX2, one thread):

- *planar* (NCHW) for the small maps of CIFAR networks, see :mod:`fgc.planar`, loses nothing at odd channel counts;
- *channels last* else: large producers as a convolution with the gathered filters; consumers as a matrix
  product with weights kept in the order (tap, input channel, output channel), so that the gather copies whole rows and
  nothing is transposed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import GatedBlock
from .folding import FoldedBlock, bias_of, fold_network, plain_convolution
from .planar import PlanarConv, PlanarPair
from .unfolding import Unfold

PLANAR_WIDTH, PLANAR_VALUES = 64, 16384  # most gated channels, and values of their maps
ROUND_UP = 8  # channels last: the kernels work on 8 channels at a time
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
        self.supported = plain_convolution(self.producer) and plain_convolution(self.consumer)
        width = self.producer.out_channels
        self.narrow = width <= PLANAR_WIDTH
        self.straight = isinstance(self.before, nn.Identity)
        # one more channel of zeros, with which lists of channels are filled up
        filters = F.pad(self.producer.weight.detach(), (0, 0, 0, 0, 0, 0, 0, 1))
        inputs = F.pad(self.consumer.weight.detach(), (0, 0, 0, 0, 0, 1))
        rows, columns = filters.permute(0, 2, 3, 1), inputs.permute(2, 3, 1, 0).flatten(0, 1)
        self.register_buffer("rows", rows.flatten(1).contiguous(), persistent=False)
        self.register_buffer("row_bias", F.pad(bias_of(self.producer), (0, 1)), persistent=False)
        self.register_buffer("columns", columns.contiguous(), persistent=False)
        self.register_buffer("all_on", torch.arange(width), persistent=False)
        self.register_buffer("filler", torch.full((ROUND_UP,), width), persistent=False)
        self._scratch: dict[torch.Size, tuple[Unfold, Unfold] | PlanarPair] = {}

    def forward(self, x: Tensor) -> Tensor:
        """``(1, C_in, H, W)`` to ``(1, C_out, H', W')``."""
        kernels = self._scratch.get(x.shape)
        if kernels is None:
            if not self.supported or len(x) != 1:
                return super().forward(x)
            kernels = self._make_kernels(x)
        if isinstance(kernels, PlanarPair):
            return kernels(x)
        inner = x if self.straight else self.before(x)
        rows, bias, columns, width = self.rows, self.row_bias, self.columns, self.producer.out_channels
        if self.gate is None:
            rows, bias, columns = rows[:width], bias[:width], columns[:, :width]
        else:
            on = torch.masked_select(self.all_on, self.gate.single(x) > 0)
            count = on.shape[0]
            if count == 0:
                return self._nothing_on(x)
            if count % ROUND_UP:
                on = torch.cat((on, self.filler[: -count % ROUND_UP]))
            rows, bias = rows.index_select(0, on), bias.index_select(0, on)
            columns = columns.index_select(1, on)
        first, second = kernels
        out = self._consume(self._produce(inner, rows, bias, first), columns, second)
        return torch.relu_(out.add_(self.shortcut(x)))

    def _produce(self, x: Tensor, rows: Tensor, bias: Tensor, unfold: Unfold) -> Tensor:
        """The producer's channels of ``rows`` before the activation: ``(channels, H', W')``."""
        height, width = unfold.size
        conv = self.producer
        if conv.out_channels * height * width < PRODUCER_CONVOLVES:
            product = torch.addmm(bias, unfold(x[0], relu=False), rows.t())
            return product.view(height, width, -1).permute(2, 0, 1)
        weight = rows.view(-1, *conv.kernel_size, conv.in_channels).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding)[0]

    def _consume(self, inner: Tensor, columns: Tensor, unfold: Unfold) -> Tensor:
        """The consumer on what the producer gave, ``(1, C_out, H'', W'')``."""
        conv, (height, width) = self.consumer, unfold.size
        if height * width > CONSUMER_CONVOLVES:
            weight = columns.view(*conv.kernel_size, -1, conv.out_channels).permute(3, 2, 0, 1)
            return F.conv2d(torch.relu_(inner)[None], weight, bias_of(conv), conv.stride, conv.padding)
        product = torch.addmm(bias_of(conv), unfold(inner, relu=True), columns.reshape(-1, conv.out_channels))
        return product.view(1, height, width, -1).permute(0, 3, 1, 2)

    def _nothing_on(self, x: Tensor) -> Tensor:
        return torch.relu(bias_of(self.consumer)[:, None, None] + self.shortcut(x))

    def _make_kernels(self, x: Tensor) -> tuple[Unfold, Unfold] | PlanarPair:
        """Scratch memory and views for images of the size of ``x``."""
        if len(self._scratch) == _SIZES:
            self._scratch.clear()
        inner = self.before(x)
        width = self.producer.out_channels
        first = Unfold(self.producer, inner.shape[2], inner.shape[3], False, inner.shape[1], inner)
        kernels: tuple[Unfold, Unfold] | PlanarPair
        if width <= PLANAR_WIDTH and width * first.positions <= PLANAR_VALUES:
            kernels = PlanarPair(self, x, inner)
        else:
            capacity = -(-width // ROUND_UP) * ROUND_UP
            kernels = first, Unfold(self.consumer, *first.size, False, capacity, inner)
        self._scratch[x.shape] = kernels
        return kernels

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        """Moved or converted, the block needs other scratch memory."""
        self._scratch.clear()
        return super()._apply(*arguments, **options)

    def __getstate__(self) -> dict[str, object]:
        """Without the scratch memory."""
        return {**self.__dict__, "_scratch": {}}


def gather_network(model: nn.Module, convert: Callable[[GatedBlock], GatherBlock]) -> nn.Module:
    """A copy of ``model`` with folded batch norms, its blocks converted and its stem by the kernels for small maps."""
    network = fold_network(model, convert)
    for name, module in list(network.named_children()):
        if type(module) is nn.Conv2d and module.bias is not None and plain_convolution(module):
            setattr(network, name, PlanarConv(module, PLANAR_VALUES))
    if any(isinstance(block, GatherBlock) and not block.narrow for block in network.modules()):
        network.to(memory_format=torch.channels_last)
    return network


class OpenBlock(GatherBlock):
    """The same kernels with every gate open and none computed: the base line."""

    def __init__(self, block: GatedBlock) -> None:
        super().__init__(block)
        self.gate = None
