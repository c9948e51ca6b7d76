"""Measured latency of gated networks beside what their multiply-adds promise (section 11)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .blocks import gated_blocks
from .executor import MODES, ConditionalExecutor
from .folding import FoldedGate
from .gather import OpenBlock, gather_network
from .macs import count_macs

WARM_UP = 3
PATTERNS = 16  # different random gates over which the repetitions of an on-rate go


@dataclass(frozen=True)
class LatencyRow:
    """Latency at one on-rate.

    Attributes:
        on_rate: probability of a gate to be on.
        dense: median milliseconds of the network without gates, batch norm folded, in its fastest form.
        milliseconds: median of each measured mode.
        ideal: gain that the multiply-adds promise, ``1 / (1 - pruning)``.
    """

    on_rate: float
    dense: float
    milliseconds: dict[str, float]
    ideal: float

    def gain(self, mode: str) -> float:
        """How many times faster than dense."""
        return self.dense / self.milliseconds[mode]


@contextmanager
def force_on_rate(executor: ConditionalExecutor, rate: float, seed: int, batch: int = 1) -> Iterator[None]:
    """Inside, gates of ``executor`` are computed but random ones are obeyed.

    Args:
        executor: in any mode.
        rate: probability of each gate to be on, independently, in [0, 1].
        seed: of the draw.
        batch: images that are given; each has its own gates.

    Raises:
        InputError: a rate outside of [0, 1].
    """
    if not 0 <= rate <= 1:
        raise InputError(f"rate {rate} is not in [0, 1]", "force_on_rate", "give a share of the channels")
    generator = torch.Generator().manual_seed(seed)
    gates = [module for module in executor.modules() if isinstance(module, FoldedGate)]
    for gate in gates:
        drawn = torch.rand(batch, len(gate.bias2), generator=generator) < rate
        gate.forced = torch.where(drawn, 1.0, -1.0).to(gate.bias2)
    try:
        yield
    finally:
        for gate in gates:
            gate.forced = None


def measure_latency(
    model: nn.Module,
    input_size: tuple[int, int],
    on_rates: Sequence[float] = (0.25, 0.5, 0.75),
    modes: Sequence[str] = ("masked", "gather"),
    repeats: int = 20,
    threads: int = 1,
    batch: int = 1,
) -> list[LatencyRow]:
    """Time a gated network dense and in several modes, alternating, with random gates of given on-rates.

    The base line is fair: of the network without gates in both memory formats and on the kernels of ``gather``, the
    fastest counts; of ``masked`` the faster memory format.

    Args:
        model: with gated blocks, on the device to be measured.
        input_size: height and width of the images in pixels.
        on_rates: each in [0, 1].
        modes: of :class:`~fgc.executor.ConditionalExecutor`.
        repeats: timed passes of each.
        threads: of a CPU.
        batch: images at a time; ``gather`` is made for 1.

    Raises:
        InputError: an unknown mode, a rate outside of [0, 1], fewer than one repetition.
    """
    if repeats < 1:
        raise InputError(f"repeats {repeats} is not positive", "measure_latency", "give 1 or more")
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *input_size, generator=generator).to(parameter)
    executors = {"dense": _baselines(model, batch)}
    for mode in modes:
        if mode not in MODES or mode == "dense":
            raise InputError(f"mode {mode!r} cannot be measured", "measure_latency", f"give some of {MODES[1:]}")
        executors[mode] = [ConditionalExecutor(model, mode)]
        if mode == "masked":
            executors[mode].append(ConditionalExecutor(model, mode).to(memory_format=torch.channels_last))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [_row(model, executors, images, rate, repeats) for rate in on_rates]
    finally:
        torch.set_num_threads(before)


def _baselines(model: nn.Module, batch: int) -> list[ConditionalExecutor]:
    plain, last = (ConditionalExecutor(model, "dense") for _ in range(2))
    found = [plain, last.to(memory_format=torch.channels_last)]
    if batch == 1:
        unfolding = ConditionalExecutor(model, "dense")
        unfolding.network = gather_network(model, OpenBlock)
        found.append(unfolding)
    return found


def _row(
    model: nn.Module, executors: dict[str, list[ConditionalExecutor]], images: Tensor, rate: float, repeats: int
) -> LatencyRow:
    seconds = {(mode, i): [0.0] * 0 for mode, several in executors.items() for i in range(len(several))}
    for repeat in range(-WARM_UP, repeats):
        for mode, i in seconds:
            executor = executors[mode][i]
            with force_on_rate(executor, rate, seed=repeat % PATTERNS, batch=len(images)):
                executor(images)  # the one before it has left its own weights in the caches
                taken = _time(lambda executor=executor: executor(images), images.device)  # type: ignore[misc]
            if repeat >= 0:
                seconds[mode, i].append(taken)
    best = {
        mode: min(1e3 * median(seconds[mode, i]) for i in range(len(several))) for mode, several in executors.items()
    }
    size = (images.shape[2], images.shape[3])
    ideal = count_macs(model, size, [rate] * len(gated_blocks(model))).ideal_speedup
    return LatencyRow(rate, best.pop("dense"), best, ideal)


def _time(call: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
