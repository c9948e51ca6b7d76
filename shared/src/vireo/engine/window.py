"""Sums of what a run measures between two lines of its log, kept on the device until they are read."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor


class Window:
    """Losses, monitors and times since the last line of the log."""

    def __init__(self) -> None:
        self.images = 0
        self.wait_s = 0.0
        self._begin = time.perf_counter()
        self._losses: dict[str, Tensor] = {}
        self._monitors: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, Tensor], monitors: Mapping[str, Tensor | float] | None = None) -> None:
        """Add scalars of one batch."""
        for sums, entries in ((self._losses, losses), (self._monitors, monitors or {})):
            for name, value in entries.items():
                value = torch.as_tensor(value).detach().float()
                sums[name] = sums[name] + value if name in sums else value
                self._counts[name] = self._counts.get(name, 0) + 1

    @property
    def seconds(self) -> float:
        """Length so far."""
        return time.perf_counter() - self._begin

    def means(self, world_size: int) -> tuple[dict[str, float], dict[str, float]]:
        """Mean losses and mean monitors, over the batches and all processes (a collective call)."""
        sums = {**self._losses, **self._monitors}
        if not sums:
            return {}, {}
        device = next(iter(sums.values())).device
        means = torch.stack([value.to(device) / self._counts[name] for name, value in sums.items()])
        if world_size > 1:
            dist.all_reduce(means)
            means = means / world_size
        values = dict(zip(sums, means.tolist()))
        return {name: values[name] for name in self._losses}, {name: values[name] for name in self._monitors}
