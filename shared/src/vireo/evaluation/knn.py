"""k-nearest-neighbour classification of frozen features by cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vireo.errors import InputError
from vireo.evaluation.features import Features, check_features
from vireo.evaluation.topk import topk_correct

_TRAIN_ROWS = 2**16  # a block of similarities is 2**26 numbers, 256 MiB, at most
_TEST_ROWS = 2**10


@torch.no_grad()
def knn_error(
    train: Features,
    test: Features,
    k: int = 20,
    temperature: float | None = 0.07,
    ks: Sequence[int] = (1, 5),
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Error of the classifier in which the ``k`` most similar training samples vote with their labels.

    A vote weighs ``exp(cosine similarity / temperature)``, the weighting of Wu et al., "Unsupervised Feature Learning
    via Non-Parametric Instance Discrimination" (2018, section 3.4), usual in self-supervised evaluation. Of equally
    similar samples those that stand first in ``train`` are nearest; of classes with equal votes the lower one wins; a
    class without any vote is never predicted.

    Similarities are computed in float32 and in blocks, so neither set need fit on the device beside its own features;
    there, only ``test`` is held as a whole.

    Args:
        train, test: features and labels.
        k: the number of neighbours.
        temperature: positive, or None for votes of equal weight.
        ks: a prediction is right if the label is among the this many classes with the most votes. Numbers above 1 are
            left out where there are no more classes than that.
        device: where to compute; None: where the features are.

    Returns:
        ``top<k>_error`` in percent for each of ``ks``.

    Raises:
        InputError: ``k`` or ``temperature`` out of range, or sets that do not fit (:func:`check_features`).
    """
    check_features(train, test)
    if not 1 <= k <= len(train):
        what = f"k of {k} is not between 1 and the {len(train)} training samples"
        raise InputError(what, "knn_error", "Use fewer neighbours, or more training samples")
    if temperature is not None and not temperature > 0:
        raise InputError(f"temperature {temperature} is not positive", "knn_error", "Use e.g. 0.07, or None")
    device = train.features.device if device is None else torch.device(device)
    similarity, neighbours = nearest(train.features, test.features, k, device)
    labels, wanted = train.labels.to(device), test.labels.to(device)
    num_classes = int(max(labels.max(), wanted.max())) + 1
    ks = [number for number in ks if number == 1 or number < num_classes]
    correct = torch.zeros(len(ks), dtype=torch.int64, device=device)
    for rows in torch.arange(len(test), device=device).split(_TEST_ROWS):
        votes = _votes(similarity[rows], labels[neighbours[rows]], num_classes, temperature)
        voted = votes.gather(1, wanted[rows, None]).squeeze(1) > 0
        correct += (topk_correct(votes, wanted[rows], ks) & voted).sum(1)
    return {f"top{number}_error": 100 * (len(test) - right) / len(test) for number, right in zip(ks, correct.tolist())}


def nearest(train: Tensor, test: Tensor, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The ``k`` rows of ``train`` with the greatest cosine similarity to each row of ``test``.

    Args:
        train: ``(N, D)``, on any device.
        test: ``(M, D)``.
        k: at most N.
        device: where to compute.

    Returns:
        Similarities float32 ``(M, k)``, greatest first, and positions in ``train`` int64 ``(M, k)``, on ``device``. Of
        equal similarities, the lower position comes first.
    """
    queries = functional.normalize(test.to(device).float())
    best = queries.new_empty(len(test), 0)
    where = torch.empty(len(test), 0, dtype=torch.int64, device=device)
    for start in range(0, len(train), _TRAIN_ROWS):
        block = functional.normalize(train[start : start + _TRAIN_ROWS].to(device).float())
        merged = []
        for query, value, position in zip(*(x.split(_TEST_ROWS) for x in (queries, best, where))):
            own, column = _stable_topk(query @ block.T, k)
            # what was found before has lower positions, and stands first
            value, chosen = _stable_topk(torch.cat([value, own], 1), k)
            merged.append((value, torch.cat([position, column + start], 1).gather(1, chosen)))
        best, where = (torch.cat(parts) for parts in zip(*merged))
    return best, where


def _stable_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``x.topk(k)`` over ``(B, N)`` with the lower column first among equal values; all columns if N is below ``k``."""
    value, column = x.topk(min(k + 1, x.shape[1]))
    # torch leaves the order of equal values open; where there are any, which is rare, a stable sort decides
    tied = (value[:, 1:] == value[:, :-1]).any(1).nonzero().squeeze(1)
    if len(tied):
        sorted_value, sorted_column = x[tied].sort(dim=1, descending=True, stable=True)
        value[tied], column[tied] = sorted_value[:, : value.shape[1]], sorted_column[:, : value.shape[1]]
    return value[:, :k], column[:, :k]


def _votes(similarity: Tensor, labels: Tensor, num_classes: int, temperature: float | None) -> Tensor:
    """Votes float64 ``(B, C)`` of neighbours with similarities and labels ``(B, k)``; 0 means none at all."""
    if temperature is None:
        weight = torch.ones_like(similarity, dtype=torch.float64)
    else:
        # relative to the nearest, which changes no decision and lets a small temperature neither over- nor underflow
        weight = ((similarity - similarity[:, :1]).double() / temperature).exp()
        weight = weight.clamp(min=torch.finfo(torch.float64).tiny)
    votes = weight.new_zeros(len(labels), num_classes)
    for column in range(labels.shape[1]):  # one neighbour at a time: a sum whose order is the same on every device
        votes.scatter_add_(1, labels[:, column : column + 1], weight[:, column : column + 1])
    return votes
