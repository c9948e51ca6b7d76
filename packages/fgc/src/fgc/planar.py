"""The smallest blocks at batch 1: two matrix products on unfolded channels with as few operations as possible.

A block of a CIFAR network is some 50 us of arithmetic, so that every operation counts: memory and views are made once
per image size and number of active channels, and biases ride along as one more row of each product.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from .folding import FoldedBlock, bias_of
from .unfolding import Lines, Unfold


class PlanarConv(nn.Module):
    """A folded convolution outside of the blocks, such as the stem, by the same means where its maps are small.

    Args:
        conv: without groups and dilation.
        most: values of its maps up to which it is computed so, for one image; others are left to the library.
    """

    def __init__(self, conv: nn.Conv2d, most: int) -> None:
        super().__init__()
        self.conv, self.most = conv, most
        self.rows: Tensor
        self.register_buffer("rows", torch.cat((bias_of(conv)[:, None], conv.weight.flatten(1)), 1), persistent=False)
        self._scratch: dict[torch.Size, Unfold | None] = {}

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` to ``(B, C_out, H', W')``."""
        if x.shape not in self._scratch:
            out = self.conv(x)
            small = x.shape[0] == 1 and out.numel() <= self.most
            kernel = Unfold(self.conv, x.shape[2], x.shape[3], True, x.shape[1], x) if small else None
            self._scratch = {x.shape: kernel}
            return out
        kernel = self._scratch[x.shape]
        if kernel is None:
            return self.conv(x)
        return torch.mm(self.rows, kernel(x[0], False)).view(1, -1, *kernel.size)

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        self._scratch.clear()
        return super()._apply(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Without the scratch memory."""
        return {**self.__dict__, "_scratch": {}}


class PlanarPair:
    """A whole block for images of one size, on NCHW maps.

    Holds what it needs of the block itself, because looking a module up in another costs as much as a small product.
    Not to be called from several threads at once.

    Args:
        block: folded, its convolutions without groups and dilation. Without a gate all channels are computed.
        block_input, producer_input: of one image, for their sizes, dtype and device.
    """

    def __init__(self, block: FoldedBlock, block_input: Tensor, producer_input: Tensor) -> None:
        producer, consumer, gate = block.producer, block.consumer, block.gate
        self.gate, width, outputs = gate, producer.out_channels, consumer.out_channels
        self.before = None if isinstance(block.before, nn.Identity) else block.before
        self.shortcut = None if isinstance(block.shortcut, nn.Identity) else block.shortcut
        self.perceptron: Any = () if gate is None else (gate.bias1, gate.weight1, gate.bias2, gate.weight2)
        like = producer_input
        self.first = Unfold(producer, like.shape[2], like.shape[3], True, like.shape[1], like)
        self.second = Unfold(consumer, *self.first.size, True, width, like)
        self.lines = Lines(self.first) if producer.stride == (1, 1) else None
        filters = producer.weight.detach()
        if self.lines is not None:
            filters = filters.transpose(1, 2)  # the taps down the lines are products of their own
        self.rows = torch.cat((bias_of(producer)[:, None], filters.flatten(1)), 1)
        self.all_rows = self._parts(self.rows)
        columns = consumer.weight.detach().permute(1, 2, 3, 0)  # input channel, taps, output channel
        self.columns = columns.reshape(width, -1)
        self.gathered_rows = torch.empty_like(self.rows)
        self.gathered_columns = torch.cat((bias_of(consumer), self.columns.flatten()))
        self.output_bias = bias_of(consumer)[:, None]
        self.inner = like.new_empty(width, self.first.size[0] * self.first.size[1])
        self.shape = (1, outputs, *self.second.size)
        self.flat = outputs, self.second.positions
        self.zero = like.new_zeros(width)
        self.average = like.new_full((block_input.shape[2] * block_input.shape[3],), 1.0)
        self.average /= len(self.average)
        self.views: dict[int, Any] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """``(1, C_in, H, W)`` to ``(1, C_out, H', W')``."""
        x = x.contiguous()
        other = x.view(self.flat) if self.shortcut is None else self.shortcut(x).reshape(self.flat)
        gate = self.gate
        if gate is None:
            _, _, inner, maps, weight, _ = self._views(len(self.zero))
            parts = self.all_rows
        else:
            bias1, weight1, bias2, weight2 = self.perceptron
            pooled = torch.mv(x.view(-1, len(self.average)), self.average)
            logits = torch.addmv(bias2, weight2, torch.addmv(bias1, weight1, pooled).relu_())
            if gate.forced is not None:
                logits = gate.forced[0]
            on = logits.gt(self.zero).nonzero().view(-1)
            count = on.shape[0]
            if count == 0:
                return torch.add(other, self.output_bias).relu_().view(self.shape)
            parts, rows, inner, maps, weight, columns = self.views.get(count) or self._views(count)
            torch.index_select(self.rows, 0, on, out=rows)
            torch.index_select(self.columns, 0, on, out=columns)
        image = x if self.before is None else self.before(x)
        if self.lines is None:
            torch.mm(parts[0], self.first(image[0], False), out=inner)
        else:
            seen = self.lines(image)
            torch.mm(parts[0], seen[0], out=inner)
            for part, line in zip(parts[1:], seen[1:]):
                inner.addmm_(part, line)
        return torch.addmm(other, weight, self.second(maps, True)).relu_().view(self.shape)

    def _parts(self, rows: Tensor) -> list[Tensor]:
        """The filters as the matrices of the successive products; the bias belongs to the first."""
        if self.lines is None:
            return [rows]
        return list(rows.split([seen.shape[0] for seen in self.lines.seen], 1))

    def _views(self, count: int) -> Any:
        outputs, taps = self.shape[1], self.columns.shape[1]
        inner = self.inner[:count]
        flat = self.gathered_columns[: outputs + count * taps]
        self.views[count] = found = (
            self._parts(self.gathered_rows[:count]),
            self.gathered_rows[:count],
            inner,
            inner.view(count, *self.first.size),
            flat.view(-1, outputs).t(),
            flat[outputs:].view(count, taps),
        )
        return found
