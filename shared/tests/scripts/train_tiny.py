"""A tiny training run for the engine's tests: ``train_tiny.py OUTPUT_DIR [name=value ...]``.

``kill_at=N`` sends SIGKILL to the process that has just done step N (only in a first start, told by ``killed`` in the
folder); ``signal_at=N`` sends ``signal=TERM`` to it. Everything else is an argument of ``Run`` or of the data.
"""

from __future__ import annotations

import ast
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vireo.engine.run import Run
from vireo.engine.schedule import multistep, with_warmup


class Loader:
    """Batches drawn from (epoch, index): this process's part of a global batch."""

    def __init__(self, batches: int = 6, batch_size: int = 8, rank: int = 0, world_size: int = 1) -> None:
        self.count, self.size, self.rank, self.world_size = batches, batch_size, rank, world_size

    def __len__(self) -> int:
        return self.count

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        torch.rand(1)  # as a DataLoader does for its base seed
        for index in range(start, self.count):
            generator = torch.Generator().manual_seed(1000 * epoch + index)
            images = torch.randn(self.size, 4, generator=generator)
            targets = images.sum(1, keepdim=True).sin()
            yield images[self.rank :: self.world_size], targets[self.rank :: self.world_size]


class Network(nn.Module):
    """A two-layer perceptron with losses; ``noise`` draws from all three global generators."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16) if noise else nn.Identity(), nn.Linear(16, 1))

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        shift = self.noise * (random.random() + float(np.random.rand()))  # noqa: NPY002
        predicted = self.layers(images + self.noise * torch.randn_like(images) + shift)
        return {"l2": (predicted - targets).square().mean(), "l1": 0.1 * (predicted - targets).abs().mean()}


def main() -> None:
    """Train as the arguments say."""
    folder = sys.argv[1]
    options: dict[str, Any] = {}
    for argument in sys.argv[2:]:
        name, _, value = argument.partition("=")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    kill_at, signal_at = options.pop("kill_at", None), options.pop("signal_at", None)
    number = getattr(signal, "SIG" + options.pop("signal", "TERM"))
    batches, noise = options.pop("batches", 6), options.pop("noise", 0.0)
    run = Run(folder, accelerator="cpu", log_every=1, **options)
    run.launch()
    network = Network(noise)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    loader = Loader(batches, rank=run.rank, world_size=run.world_size)
    schedule = with_warmup(multistep([2], run.steps_per_epoch(loader)), 4)
    model, _ = run.setup(network, optimizer, schedule)
    marker = Path(folder) / "killed"
    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            last = run.rank == run.world_size - 1
            if signal_at == run.step_count and last:
                os.kill(os.getpid(), number)
            run.step(model(images, targets))
            if kill_at == run.step_count and last and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        torch.rand(3)  # an evaluation that draws
        run.record({"AP50": float(epoch)} if run.is_main else None)
    run.finish()


if __name__ == "__main__":
    main()
