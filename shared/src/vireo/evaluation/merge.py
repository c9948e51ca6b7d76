"""Predictions of all processes in one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Prediction = Mapping[str, Any]


def gather_predictions(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Merge the predictions of every process of ``torch.distributed``; without a process group the same list.

    Call it on all processes: each of them receives the whole list, sorted by image id, with one entry for an image that
    several processes predicted (a padded sampler's duplicates; the lowest rank's entry stays). So the metrics, and what
    is decided by them, are the same with any number of processes.

    Args:
        predictions: this process's predictions, see :mod:`vireo.evaluation`; the numbers of entries may differ.

    Returns:
        Predictions whose arrays are torch CPU tensors (bfloat16 becomes float32); other values, such as run-length
        encodings, as they were.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return [dict(p) for p in predictions]
    shards: list[list[dict[str, Any]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shards, [{k: _pack(v) for k, v in p.items()} for p in predictions])
    merged: dict[int, dict[str, Any]] = {}
    for prediction in (p for shard in shards for p in shard):
        merged.setdefault(int(prediction["image_id"]), prediction)
    return [{k: _unpack(v) for k, v in merged[i].items()} for i in sorted(merged)]


def _pack(value: Any) -> Any:
    """Tensors as compact arrays: a tensor that is a view would take its whole storage on the journey."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return np.array(value.float() if value.dtype == torch.bfloat16 else value)


def _unpack(value: Any) -> Any:
    import torch

    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
