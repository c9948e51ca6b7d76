"""Where random numbers come from: a generator, or the keys of the samples, so that a run can be repeated exactly."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from vireo.data.random import batch_key, counter_uniform


class Draws(Protocol):
    """Random numbers for a batch of B samples."""

    def uniform(self, stream: str, n: int, *, shared: bool = False) -> Tensor:
        """float32 ``(B, n)`` in [0, 1), independent for each ``stream``; ``(1, n)`` for all samples alike if shared."""

    def normal(self, stream: str, n: int, *, shared: bool = False) -> Tensor:
        """Standard normal numbers, likewise."""


class GeneratorDraws:
    """Numbers from a torch generator, for use outside a training run.

    Args:
        batch: B.
        device: where the numbers are wanted, that of the generator.
        generator: default: torch's global one.
    """

    def __init__(
        self, batch: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> None:
        self.batch, self.device, self.generator = batch, device, generator

    def uniform(self, stream: str, n: int, *, shared: bool = False) -> Tensor:
        """See :class:`Draws`; the stream does not matter."""
        return torch.rand(1 if shared else self.batch, n, device=self.device, generator=self.generator)

    def normal(self, stream: str, n: int, *, shared: bool = False) -> Tensor:
        """See :class:`Draws`; the stream does not matter."""
        return torch.randn(1 if shared else self.batch, n, device=self.device, generator=self.generator)


class KeyedDraws:
    """Numbers as functions of keys: the same for any batch size, number of processes and restart.

    Args:
        keys: int64 ``(B,)``, one per sample of an epoch (:func:`vireo.data.counter_key`).
        batch_key: int64 ``(1,)`` of the whole batch, over all processes, for what is drawn once a batch.
    """

    def __init__(self, keys: Tensor, batch_key: Tensor) -> None:
        self.keys, self.batch_key = keys, batch_key

    def uniform(self, stream: str, n: int, *, shared: bool = False) -> Tensor:
        """See :class:`Draws`."""
        return counter_uniform(self.batch_key if shared else self.keys, stream, n)

    def normal(self, stream: str, n: int, *, shared: bool = False) -> Tensor:
        """See :class:`Draws`; by Box and Muller."""
        radius, angle = self.uniform(stream, 2 * n, shared=shared).chunk(2, 1)
        return (-2 * torch.log1p(-radius)).sqrt() * (2 * math.pi * angle).cos()


def batch_draws(keys: Tensor, seed: int, epoch: int, batch: int) -> KeyedDraws:
    """The draws of batch number ``batch`` of an epoch; all processes give the same number and their own ``keys``."""
    return KeyedDraws(keys, torch.tensor([batch_key(seed, epoch, batch)], device=keys.device))
