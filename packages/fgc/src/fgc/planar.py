"""The smallest blocks at batch 1: two matrix products on unfolded channels with as few operations as possible.

A block of a CIFAR network is some 50 us of arithmetic, so that every operation counts: memory and views are made once
per image size and number of active channels, and biases ride along as one more row of each product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .folding import FoldedGate, bias_of
from .unfolding import Lines, Unfold


class PlanarPair:
    """Gate, producer, ReLU and consumer of a block for images of one size, on NCHW maps.

    Not to be called from several threads at once.

    Args:
        producer, consumer: folded, without groups and dilation.
        gate: None computes all channels.
        block_input, producer_input: of one image, for their sizes, dtype and device.
    """

    def __init__(
        self,
        producer: nn.Conv2d,
        consumer: nn.Conv2d,
        gate: FoldedGate | None,
        block_input: Tensor,
        producer_input: Tensor,
    ) -> None:
        self.gate, width, outputs = gate, producer.out_channels, consumer.out_channels
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
        self.inner = like.new_empty(width, self.first.size[0] * self.first.size[1])
        self.shape = (1, outputs, *self.second.size)
        self.zero = like.new_zeros(width)
        self.average = like.new_full((block_input.shape[2] * block_input.shape[3],), 1.0)
        self.average /= len(self.average)
        self.views: dict[int, Any] = {}

    def __call__(self, block_input: Tensor, producer_input: Tensor) -> Tensor | None:
        """The consumer's output ``(1, C_out, H', W')``; None if no channel is on."""
        gate = self.gate
        if gate is None:
            _, _, inner, maps, weight, _ = self._views(len(self.zero))
            parts = self.all_rows
        else:
            # the gate's own tensors, kept here because looking them up in a module costs as much as a product
            bias1, weight1, bias2, weight2 = self.perceptron
            pooled = torch.mv(block_input.view(-1, len(self.average)), self.average)
            logits = torch.addmv(bias2, weight2, torch.addmv(bias1, weight1, pooled).relu_())
            if gate.forced is not None:
                logits = gate.forced[0]
            on = logits.gt(self.zero).nonzero().view(-1)
            count = on.shape[0]
            if count == 0:
                return None
            parts, rows, inner, maps, weight, columns = self.views.get(count) or self._views(count)
            torch.index_select(self.rows, 0, on, out=rows)
            torch.index_select(self.columns, 0, on, out=columns)
        if self.lines is None:
            torch.mm(parts[0], self.first(producer_input[0], False), out=inner)
        else:
            seen = self.lines(producer_input[0])
            torch.mm(parts[0], seen[0], out=inner)
            for part, line in zip(parts[1:], seen[1:]):
                inner.addmm_(part, line)
        return torch.mm(weight, self.second(maps, True)).view(self.shape)

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
