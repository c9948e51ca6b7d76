"""What is measured of a gated network over a data set: on-rates of its blocks, features and gates of some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .blocks import gated_blocks


class OnRates:
    """The share of channels that are on in each block, over images in evaluation.

    Sums stay on the device until they are asked for.
    """

    def __init__(self) -> None:
        self._images = 0
        self._batches = 0
        self._sum: Tensor | None = None
        self._sum_of_means: Tensor | None = None

    def add(self, network: nn.Module) -> None:
        """Count the hard gates of the last forward pass of ``network``."""
        logits = [block.gate.logits for block in gated_blocks(network)]
        rates = torch.stack([(z > 0).double().mean() for z in logits if z is not None])
        images = next(len(z) for z in logits if z is not None)
        self._images += images
        self._batches += 1
        self._sum = rates * images if self._sum is None else self._sum + rates * images
        self._sum_of_means = rates if self._sum_of_means is None else self._sum_of_means + rates

    @property
    def mean(self) -> list[float]:
        """Per block, the mean over images, over all processes (a collective call)."""
        return self._divided(self._sum, self._images)

    @property
    def mean_of_batches(self) -> list[float]:
        """Per block, the mean over batches whatever their size: the published counter's (section 8)."""
        return self._divided(self._sum_of_means, self._batches)

    @staticmethod
    def _divided(total: Tensor | None, count: int) -> list[float]:
        assert total is not None, "no batch was added"
        sums = torch.cat([total, total.new_tensor([float(count)])])
        if dist.is_initialized():
            dist.all_reduce(sums)
        return (sums[:-1] / sums[-1]).tolist()


class GateRecords:
    """Features, gate logits and labels of every image for chosen blocks, gathered over processes.

    Args:
        blocks: block numbers.
    """

    def __init__(self, blocks: Sequence[int]) -> None:
        self.blocks = tuple(blocks)
        self._rows: list[tuple[list[Tensor], list[Tensor], Tensor]] = []

    def add(self, network: nn.Module, labels: Tensor) -> None:
        """Keep what the last forward pass of ``network`` left; ``labels`` are ``(B,)``."""
        chosen = [gated_blocks(network)[block] for block in self.blocks]
        features = [block.feature.cpu() for block in chosen if block.feature is not None]
        logits = [block.gate.logits.detach().cpu() for block in chosen if block.gate.logits is not None]
        self._rows.append((features, logits, labels.cpu()))

    def gathered(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Per block features ``(N, C)`` and logits ``(N, C)``, and labels ``(N,)`` (a collective call)."""
        own = (
            [torch.cat([row[0][i] for row in self._rows]) for i in range(len(self.blocks))],
            [torch.cat([row[1][i] for row in self._rows]) for i in range(len(self.blocks))],
            torch.cat([row[2] for row in self._rows]),
        )
        if not dist.is_initialized():
            return own
        parts: list[tuple[list[Tensor], list[Tensor], Tensor]] = [own] * dist.get_world_size()
        dist.all_gather_object(parts, own)
        features, logits = (
            [torch.cat([part[which][i] for part in parts]) for i in range(len(self.blocks))] for which in (0, 1)
        )
        return features, logits, torch.cat([part[2] for part in parts])
