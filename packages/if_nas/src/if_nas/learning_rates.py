"""Learning rates that change once an epoch, in closed form (section 4)."""

from __future__ import annotations

from vireo.engine.schedule import Schedule, build_schedule
from vireo.errors import InputError

TAIL_EPOCHS = 5  # of "linear_tail"
SCHEDULES = ("linear", "cosine", "linear_tail")


def epoch_schedule(
    name: str, epochs: int, steps_per_epoch: int = 1, *, final: float = 0.0, warmup_epochs: int = 0
) -> Schedule:
    """The factor on the initial rate by optimizer step; all steps of an epoch have the same.

    Args:
        name: ``linear``: a line from 1 to ``final``; ``cosine``: half a cosine from 1 to ``final``; ``linear_tail``: a
            line that would reach 0 five epochs before the end, then a slower one to 0 (an option of the authors'
            training scripts).
        epochs: E, when 0 or ``final`` would be reached; the last epoch trained is E - 1.
        steps_per_epoch: optimizer steps, see :meth:`vireo.engine.Run.steps_per_epoch`.
        final: see above.
        warmup_epochs: the first epochs e multiply the factor by (e + 1) / ``warmup_epochs``: for large batches.

    Raises:
        InputError: an unknown name, or too few epochs for ``linear_tail``.
    """
    if name not in SCHEDULES:
        raise InputError(f"unknown schedule {name!r}", "optim.schedule", f"use one of {', '.join(SCHEDULES)}")
    if name == "linear_tail":
        by_epoch = _linear_tail(epochs)
    else:
        by_epoch = build_schedule(name, epochs=epochs, steps_per_epoch=1, final=final)

    def factor(step: int) -> float:
        epoch = step // steps_per_epoch
        return by_epoch(epoch) * (min(1.0, (epoch + 1) / warmup_epochs) if warmup_epochs else 1.0)

    return factor


def _linear_tail(epochs: int) -> Schedule:
    if epochs <= TAIL_EPOCHS:
        raise InputError(f"linear_tail needs more than {TAIL_EPOCHS} epochs", "optim.schedule", "use linear or cosine")
    line = epochs - TAIL_EPOCHS

    def factor(epoch: int) -> float:
        left = epochs - epoch
        return (left - TAIL_EPOCHS) / line if left > TAIL_EPOCHS else left / (line * TAIL_EPOCHS)

    return factor
