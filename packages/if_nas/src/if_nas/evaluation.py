"""Accuracy of a network, as the paper reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from vireo.evaluation import TopK


@torch.no_grad()
def evaluate(classify: Callable[[Tensor], Tensor], batches: Iterable[Any]) -> dict[str, float]:
    """Top-1 and top-5 accuracy over all processes (each must call this).

    Args:
        classify: images ``(B, 3, H, W)`` to logits ``(B, classes)``: a network, which is put into evaluation mode and
            must not be wrapped for several processes, or a function of one.
        batches: an evaluation loader over this process's share of the data.

    Returns:
        ``top1`` and, with more than five classes, ``top5``, in percent.
    """
    if isinstance(classify, torch.nn.Module):
        classify.eval()
    errors: TopK | None = None
    for images, targets in batches:
        logits = classify(images)
        if errors is None:
            errors = TopK(logits.shape[1], (1, 5) if logits.shape[1] > 5 else (1,))
        errors.update(logits, targets["label"])
    assert errors is not None, "no batch to evaluate"
    found = errors.compute()
    return {f"top{k}": 100 - found[f"top{k}_error"] for k in errors.ks}
