"""A tiny training run for the engine's tests: ``train_tiny.py OUTPUT_DIR [name=value ...]``.

``kill_at=[N,...]`` sends SIGKILL to the process that has just done step N, once for each N; ``signal_at=N`` sends
``signal_name`` to it. Other names are arguments of ``Run`` or of the data.
"""

from __future__ import annotations

import ast
import json
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
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


def parse(arguments: list[str]) -> dict[str, Any]:
    """``name=value`` pairs; values are Python literals where they can be read as such."""
    options: dict[str, Any] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def train(
    folder: str,
    *,
    kill_at: Sequence[int] = (),
    signal_at: int | None = None,
    signal_name: str = "SIGTERM",
    batches: int = 6,
    batch_size: int = 8,
    noise: float = 0.0,
    **settings: Any,
) -> Network:
    """Train, and kill or signal the last process on the way."""
    run = Run(folder, accelerator="cpu", **{"log_every": 1, **settings})
    run.launch()
    network = Network(noise)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    loader = Loader(batches, batch_size, rank=run.rank, world_size=run.world_size)
    schedule = with_warmup(multistep([2], run.steps_per_epoch(loader)), 4)
    model, _ = run.setup(network, optimizer, schedule)
    last = run.rank == run.world_size - 1
    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            if last and run.step_count == signal_at:
                os.kill(os.getpid(), getattr(signal, signal_name))
            run.step(model(images, targets))
            killed = Path(folder) / f"killed_{run.step_count}"
            if last and run.step_count in kill_at and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        torch.rand(3)  # an evaluation that draws
        run.record({"AP50": float(epoch)} if run.is_main else None)
    run.finish()
    return network


def main() -> None:
    """Train once as the command line says; or, with ``--series``, once for each JSON list on stdin, each in a fork.

    A fork is a process of its own that need not import torch again. The exit statuses are printed as JSON (negative:
    the signal that ended it).
    """
    if sys.argv[1] != "--series":
        train(sys.argv[1], **parse(sys.argv[2:]))
        return
    statuses = []
    for arguments in json.load(sys.stdin):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                train(arguments[0], **parse(arguments[1:]))
                status = 0
            except SystemExit as end:
                status = int(end.code or 0) if not isinstance(end.code, str) else 1
            except Exception as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
