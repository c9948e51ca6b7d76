"""Where the random numbers of a training step come from."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Draws(Protocol):
    """Uniform random numbers in [0, 1) for the images of a batch."""

    def __call__(self, stream: str, num_images: int, n: int, device: torch.device) -> Tensor:
        """``(num_images, n)`` float32; ``stream`` names the purpose, so that purposes do not share numbers."""
        ...


class TorchDraws:
    """Draws from a torch generator (the default one if None): what a borrower of the model gets."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def __call__(self, stream: str, num_images: int, n: int, device: torch.device) -> Tensor:
        return torch.rand(num_images, n, generator=self.generator, device=device)


class KeyedDraws:
    """Draws that are a function of each image's counter key alone: the same on any device, rank or restart.

    Args:
        keys: ``(B,)`` int64, the targets' ``key`` entries set by ``vireo.data.Loader``.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    def __call__(self, stream: str, num_images: int, n: int, device: torch.device) -> Tensor:
        from vireo.data.random import counter_uniform

        return counter_uniform(self.keys.to(device), stream, n)


def draws_for(targets: list[dict]) -> Draws:
    """Keyed draws if every target carries its counter key, the torch generator otherwise."""
    if targets and all("key" in target for target in targets):
        return KeyedDraws(torch.stack([torch.as_tensor(target["key"]) for target in targets]))
    return TorchDraws()


def mask_at_most(mask: Tensor, limit: Tensor | int, priority: Tensor) -> Tensor:
    """Keep the ``limit`` set entries of each row with the lowest priority.

    Args:
        mask: ``(B, N)`` bool.
        limit: per row, ``(B,)`` or a number.
        priority: ``(B, N)`` random numbers; an even choice without replacement when they are uniform.
    """
    order = priority.masked_fill(~mask, float("inf")).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(mask.shape[1], device=mask.device).expand_as(order))
    bound = limit[:, None] if isinstance(limit, Tensor) else limit
    return mask & (rank < bound)
