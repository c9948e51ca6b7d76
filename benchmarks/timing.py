"""How speed is measured: sides take turns, and a training step's wait for its batch is a share of the step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from vireo.data import Loader

H100_BF16 = 989e12  # dense bfloat16 operations a second that NVIDIA states for H100 and H200 SXM


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every side in each of ``rounds`` rounds, after ``warm_up`` rounds that are not counted.

    In a round each side is called once; work that it leaves on a GPU counts as its own.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for counted in range(-warm_up, rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if counted >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each side."""
    return {name: median(values) for name, values in seconds.items()}


def flops_of(run: Callable[[], object]) -> float:
    """Operations of a call, two for a multiplication with its addition."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def gpu_speed(step: Callable[[], object], images: int, flops: float, rounds: int) -> dict[str, float]:
    """Images a second, share of an H100's bfloat16 peak, and memory of ``step``, which takes ``flops`` operations."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = median(alternate({"step": step}, rounds, warm_up=5)["step"])
    return {
        "images_per_s": round(images / seconds, 1),
        "ms": round(1000 * seconds, 2),
        "gflop_per_image": round(flops / images / 1e9, 2),
        "utilisation": round(flops / seconds / H100_BF16, 4),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def alternate_epochs(
    ours: Loader, theirs: DataLoader, name: str, shape: tuple[int, ...], epochs: int
) -> dict[str, list[float]]:
    """Seconds of every epoch of both loaders in turns, ``vireo`` and ``name``; both deliver float32 of ``shape``.

    One epoch each comes before, to start the workers and fill the file cache.
    """
    number = itertools.count()

    def go_through(batches: Iterable[Any]) -> None:
        for images, _ in batches:
            assert images.shape == shape
            assert images.dtype == torch.float32

    sides = {"vireo": lambda: go_through(ours.batches(next(number))), name: lambda: go_through(theirs)}
    return alternate(sides, epochs)


def wait_share(loader: Loader, step: Callable[[Any, Any], object], steps: int, warm_up: int) -> float:
    """Share of ``steps`` training steps' time on a GPU that is spent waiting for the batch, after ``warm_up`` steps."""
    batches = (batch for epoch in itertools.count() for batch in loader.batches(epoch))
    waited = total = 0.0
    for counted in range(-warm_up, steps):
        began = time.perf_counter()
        images, targets = next(batches)
        torch.cuda.current_stream().synchronize()  # the copy itself counts as waiting
        ready = time.perf_counter()
        step(images, targets)
        torch.cuda.current_stream().synchronize()
        if counted >= 0:
            waited, total = waited + ready - began, total + time.perf_counter() - began
    return waited / total
