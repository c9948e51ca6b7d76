"""Top-k error of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vireo.errors import InputError


def topk_correct(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """Whether each sample's label is among its k greatest logits.

    Of equal logits the one with the lower class counts as greater, so the result does not depend on the device. A label
    whose logit is NaN is never among them, and any other NaN counts as greater. With k at or above the number of
    classes every sample is correct.

    Args:
        logits: float ``(B, C)``.
        labels: int64 ``(B,)`` in [0, C).
        ks: integers from 1.

    Returns:
        bool ``(len(ks), B)``.

    Raises:
        InputError: a label out of range, or a k below 1. The check waits for the device.
    """
    if min(ks, default=0) < 1:
        raise InputError(f"k of {tuple(ks)} is not positive", "topk_correct", "Use integers from 1")
    classes = logits.shape[1]
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        first = int(bad.nonzero()[0])
        what = f"label {int(labels[first])} is outside 0 to {classes - 1}"
        raise InputError(what, f"sample {first} of the batch", "Check that model and data have the same classes")
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(classes, device=logits.device) < labels[:, None]
    rank = (~(logits <= own)).sum(1) + ((logits == own) & earlier).sum(1)
    limits = torch.tensor(list(ks), device=logits.device)
    return (rank < limits[:, None]) & ~own.isnan().squeeze(1)


class TopK:
    """Counts correct samples over the batches of an evaluation, on the device where they are.

    Args:
        num_classes: C.
        ks: as for :func:`topk_correct`.
    """

    def __init__(self, num_classes: int, ks: Sequence[int] = (1, 5)) -> None:
        self.ks = tuple(ks)
        self._counts = torch.zeros(len(self.ks) + 2, num_classes, dtype=torch.int64)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits ``(B, C)``, labels ``(B,)``. Errors as by :func:`topk_correct`."""
        rows = [*topk_correct(logits, labels, self.ks), topk_correct(logits, labels, (1,))[0], torch.ones_like(labels)]
        self._counts = self._counts.to(logits.device)
        self._counts.index_add_(1, labels, torch.stack([row.long() for row in rows]))

    def compute(self) -> dict[str, Any]:
        """Errors over all processes, each of which must call this; their samples must be disjoint, as the loaders' are.

        Returns:
            ``top<k>_error`` for each k and ``class_errors``, a list of top-1 errors (None for a class without samples),
            in percent; ``samples``, their number.

        Raises:
            InputError: no samples at all.
        """
        import torch.distributed as dist

        counts = self._counts
        if dist.is_available() and dist.is_initialized():
            # a process without batches still has its counts on the CPU
            counts = counts.cuda() if dist.get_backend() == "nccl" else counts.clone()
            dist.all_reduce(counts)
        *correct, top1, total = counts.cpu()
        samples = int(total.sum())
        if samples == 0:
            raise InputError("no samples were evaluated", "TopK", "Give at least one batch")
        errors: dict[str, Any] = {
            f"top{k}_error": 100 * (samples - int(row.sum())) / samples for k, row in zip(self.ks, correct)
        }
        per_class = [100 * (n - right) / n if n else None for right, n in zip(top1.tolist(), total.tolist())]
        return {**errors, "class_errors": per_class, "samples": samples}
