"""Learning-rate schedules as pure functions of the global step, so that a resumed run follows the same curve.

A schedule maps the number of optimizer steps already taken to a factor on each parameter group's initial learning rate.
Warm-up multiplies another schedule; ``multistep`` and ``cosine`` agree with torch's ``MultiStepLR`` and
``CosineAnnealingLR`` (tested), ``with_warmup`` with ``LinearLR``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from vireo.errors import InputError

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Factor 1 at every step."""
    return lambda step: 1.0


def multistep(milestones: Sequence[float], steps_per_epoch: int, gamma: float = 0.1) -> Schedule:
    """Multiply by ``gamma`` after each of the ``milestones``, given in epochs (fractions allowed)."""
    boundaries = sorted(round(epoch * steps_per_epoch) for epoch in milestones)
    return lambda step: gamma ** bisect_right(boundaries, step)


def step(every: float, steps_per_epoch: int, gamma: float = 0.1) -> Schedule:
    """Multiply by ``gamma`` every ``every`` epochs."""
    period = max(1, round(every * steps_per_epoch))
    return lambda step: gamma ** (step // period)


def cosine(total_steps: int, start: int = 0, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 at step ``start`` to ``final`` at ``total_steps``; flat before and after."""

    def factor(step: int) -> float:
        progress = min(max((step - start) / max(1, total_steps - start), 0.0), 1.0)
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def linear(total_steps: int, start: int = 0, final: float = 0.0) -> Schedule:
    """A straight line from 1 at step ``start`` to ``final`` at ``total_steps``; flat before and after."""

    def factor(step: int) -> float:
        progress = min(max((step - start) / max(1, total_steps - start), 0.0), 1.0)
        return 1.0 + (final - 1.0) * progress

    return factor


def poly(total_steps: int, power: float = 0.9, final: float = 0.0) -> Schedule:
    """``final + (1 - final) * (1 - i / (total_steps - 1)) ** power`` at step i: 1 at the first step and ``final`` at
    the last, as in DeepLab and its successors; ``final`` behind it.
    """

    def factor(step: int) -> float:
        left = 1.0 - min(max(step, 0) / max(1, total_steps - 1), 1.0)
        return final + (1.0 - final) * math.pow(left, power)

    return factor


def with_warmup(schedule: Schedule, steps: int, start: float = 0.001) -> Schedule:
    """Multiply ``schedule`` by a line from ``start`` at step 0 to 1 at step ``steps`` (detection's 500 and 0.001)."""
    if steps <= 0:
        return schedule
    return lambda step: schedule(step) * (1.0 if step >= steps else start + (1.0 - start) * step / steps)


def warmup_cosine(total_steps: int, warmup_steps: int, final: float = 0.0) -> Schedule:
    """The schedule of BEiT, MAE and their descendants: a line from 0 at step 0 to 1 at the last step of the warm-up,
    then half a cosine that starts from 1 again and ends one step short of ``final``.
    """
    rest = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / (warmup_steps - 1) if warmup_steps > 1 else 1.0
        progress = min((step - warmup_steps) / rest, 1.0)
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def build_schedule(
    name: str,
    *,
    epochs: float,
    steps_per_epoch: int,
    warmup_steps: int = 0,
    warmup_start: float = 0.001,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    final: float = 0.0,
) -> Schedule:
    """A schedule from configuration values.

    Args:
        name: ``constant``, ``multistep`` (by ``milestones``, ``gamma``), ``cosine`` or ``linear`` (to ``final``), or
            ``warmup_cosine``, whose warm-up starts from 0.
        epochs: length of the run; ``cosine`` and ``linear`` end there and begin when the warm-up ends.
        steps_per_epoch: optimizer steps an epoch, see ``Run.steps_per_epoch``.
        milestones: epochs after which the rate drops by ``gamma``.
        warmup_steps: length of the linear warm-up in optimizer steps, 0 for none.
        warmup_start: factor at step 0.

    Raises:
        InputError: unknown ``name``.
    """
    total = round(epochs * steps_per_epoch)
    schedules: dict[str, Callable[[], Schedule]] = {
        "constant": constant,
        "multistep": lambda: multistep(milestones, steps_per_epoch, gamma),
        "cosine": lambda: cosine(total, start=min(warmup_steps, total), final=final),
        "linear": lambda: linear(total, start=min(warmup_steps, total), final=final),
    }
    if name == "warmup_cosine":
        return warmup_cosine(total, min(warmup_steps, total), final)
    if name not in schedules:
        raise InputError(
            f"unknown schedule '{name}'", "schedule", f"use one of {', '.join([*schedules, 'warmup_cosine'])}"
        )
    return with_warmup(schedules[name](), warmup_steps, warmup_start)
