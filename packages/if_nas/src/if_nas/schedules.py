"""Learning rates that change once an epoch, in closed form (section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable

from vireo.engine.schedule import Schedule
from vireo.errors import InputError

TAIL_EPOCHS = 5  # of "linear_tail"
SCHEDULES = ("linear", "cosine", "linear_tail")


def epoch_factor(name: str, epochs: int, final: float = 0.0, warmup_epochs: int = 0) -> Callable[[int], float]:
    """The factor on the initial rate by epoch, from 0.

    Args:
        name: ``linear``: a line from 1 to ``final``; ``cosine``: half a cosine from 1 to ``final``; ``linear_tail``: a
            line that would reach 0 five epochs before the end, then a slower one to 0 (an option of the authors'
            training scripts).
        epochs: E, at which 0 or ``final`` would be reached.
        final: see above.
        warmup_epochs: the first epochs e multiply the factor by (e + 1) / ``warmup_epochs``: for large batches.

    Raises:
        InputError: an unknown name, or too few epochs for ``linear_tail``.
    """
    if name == "linear_tail" and epochs <= TAIL_EPOCHS:
        raise InputError(f"linear_tail needs more than {TAIL_EPOCHS} epochs", "optim.schedule", "use linear or cosine")
    factors: dict[str, Callable[[int], float]] = {
        "linear": lambda epoch: 1 + (final - 1) * epoch / epochs,
        "cosine": lambda epoch: final + (1 - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2,
        "linear_tail": lambda epoch: _linear_tail(epoch, epochs),
    }
    if name not in factors:
        raise InputError(f"unknown schedule {name!r}", "optim.schedule", f"use one of {', '.join(SCHEDULES)}")
    return lambda epoch: factors[name](epoch) * (min(1.0, (epoch + 1) / warmup_epochs) if warmup_epochs else 1.0)


def by_epoch(factor: Callable[[int], float], steps_per_epoch: int) -> Schedule:
    """A function of the epoch as one of the optimizer step, as :class:`vireo.engine.Run` takes it."""
    return lambda step: factor(step // steps_per_epoch)


def _linear_tail(epoch: int, epochs: int) -> float:
    left, line = epochs - epoch, epochs - TAIL_EPOCHS
    return (left - TAIL_EPOCHS) / line if left > TAIL_EPOCHS else left / (line * TAIL_EPOCHS)
