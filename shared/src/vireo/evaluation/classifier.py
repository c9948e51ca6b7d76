"""Errors of a classifier over an evaluation set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from vireo.evaluation.topk import TopK


def evaluate_classifier(network: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
    """Errors over all processes (each must call this).

    Args:
        network: with ``num_classes``, not wrapped for several processes; left in evaluation mode.
        batches: an evaluation loader over this process's share of the data.

    Returns:
        ``top1_error``, with more than five classes ``top5_error``, and ``top1_accuracy`` and so on, in percent.
    """
    network.eval()
    num_classes: int = network.num_classes  # type: ignore[assignment]
    errors = TopK(num_classes, (1, 5) if num_classes > 5 else (1,))
    with torch.no_grad():
        for images, targets in batches:
            errors.update(network(images), targets["label"])
    return with_accuracy({name: value for name, value in errors.compute().items() if name.startswith("top")})


def with_accuracy(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics`` and, for each ``top<k>_error`` in percent, ``top<k>_accuracy``, which papers report."""
    errors = {name: value for name, value in metrics.items() if name.startswith("top") and name.endswith("_error")}
    return {**metrics, **{name.replace("_error", "_accuracy"): 100 - value for name, value in errors.items()}}
