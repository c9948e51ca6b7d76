"""How well the neighbourhoods of gates follow those of features: the measures of the small claim."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vireo.errors import InputError

_ROWS = 1024  # of the similarity matrix at a time


def nearest_by_cosine(vectors: Tensor, k: int) -> Tensor:
    """The ``k`` nearest other rows of each row by cosine similarity, ``(N, k)`` int64, in no order.

    Args:
        vectors: ``(N, C)``.
        k: fewer than N.

    Raises:
        InputError: ``k`` is not in [1, N).
    """
    if not 0 < k < len(vectors):
        raise InputError(f"{k} neighbours among {len(vectors)} samples", "k", f"use 1 to {len(vectors) - 1}")
    unit = F.normalize(vectors.float(), dim=1)
    found = []
    for start in range(0, len(unit), _ROWS):
        similarity = unit[start : start + _ROWS] @ unit.T
        rows = torch.arange(len(similarity), device=unit.device)
        similarity[rows, start + rows] = -torch.inf
        found.append(similarity.topk(k, sorted=False).indices)
    return torch.cat(found)


def neighbor_overlap(features: Tensor, gate_logits: Tensor, k: int = 20) -> float:
    """Mean share of an image's ``k`` nearest by feature that are also among its ``k`` nearest by gate logits.

    Args:
        features, gate_logits: ``(N, C)`` each, one row per image.
        k: neighbours; chance is ``k / (N - 1)``.
    """
    ours, theirs = nearest_by_cosine(gate_logits, k).sort(1).values, nearest_by_cosine(features, k).sort(1).values
    place = torch.searchsorted(ours, theirs).clamp(max=k - 1)
    return float((ours.gather(1, place) == theirs).float().mean())


def gate_purity(gate_logits: Tensor, labels: Tensor, k: int = 20) -> float:
    """Mean share of an image's ``k`` nearest by gate logits that have its label."""
    near = nearest_by_cosine(gate_logits, k)
    return float((labels[near] == labels[:, None]).float().mean())
