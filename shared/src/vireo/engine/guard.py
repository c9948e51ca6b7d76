"""Notices losses and gradients that are not finite before they reach the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vireo.errors import InputError

_MOST_IN_A_ROW = 100


class NonFiniteLoss(InputError):
    """A loss or the gradient is NaN or infinite."""


class NonFinite:
    """Collects the losses of a step's batches on the device; judged once a step, so that the device is not held up.

    Args:
        policy: ``raise`` or ``skip``.

    Attributes:
        skipped: steps left out so far.
    """

    def __init__(self, policy: str) -> None:
        if policy not in ("raise", "skip"):
            raise InputError(f"unknown policy '{policy}'", "run.nonfinite", "use raise or skip")
        self.policy = policy
        self.skipped = 0
        self._in_a_row = 0
        self._batches: list[tuple[tuple[str, ...], Tensor, Sequence[int] | Tensor | None]] = []

    def note(self, losses: Mapping[str, Tensor], image_ids: Sequence[int] | Tensor | None) -> None:
        """Remember one batch's losses (and whose they are) until :meth:`clear`."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        self._batches.append((tuple(losses), values, image_ids))

    def bad(self) -> Tensor:
        """1.0 if any noted loss is not finite, else 0.0; scalar on the losses' device."""
        return 1.0 - torch.cat([values for _, values, _ in self._batches]).isfinite().all().float()

    def clear(self) -> None:
        """Forget the batches of a good step."""
        self._batches.clear()
        self._in_a_row = 0

    def judge(self, where: str) -> str:
        """Count the step as skipped and return a message, or raise under ``raise`` or after 100 in a row.

        Raises:
            NonFiniteLoss: naming step, entries and images.
        """
        culprits = []
        for names, values, image_ids in self._batches:
            entries = [f"{name} = {value}" for name, value in zip(names, values.tolist()) if not _finite(value)]
            if entries:
                numbers = image_ids.tolist() if isinstance(image_ids, Tensor) else image_ids
                whose = f" (images {', '.join(map(str, numbers))})" if numbers is not None else ""
                culprits.append(", ".join(entries) + whose)
        self._batches.clear()
        self.skipped += 1
        self._in_a_row += 1
        what = "; ".join(culprits) or "the gradient (of finite losses), or a loss of another process"
        if self.policy == "raise" or self._in_a_row > _MOST_IN_A_ROW:
            many = f" for {self._in_a_row} steps in a row" if self.policy == "skip" else ""
            remedy = "look at these images, lower the learning rate or lengthen the warm-up, or set nonfinite=skip"
            raise NonFiniteLoss(f"not finite{many}: {what}; the weights are untouched", where, remedy)
        return f"{where}: update skipped, not finite: {what}"


def _finite(value: float) -> bool:
    return value - value == 0.0
