"""Losses of the refiner. ``G`` boxes, ``P`` candidates in a bag, ``C`` classes; all return scalars.

Every loss is a sum divided by ``normalizer``. By default that is the batch's own count; the detector passes the mean
count over all processes, so that a run on two processes equals one process with the whole batch.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .bags import instance_scores
from .boxes import ROI_STDS, elementwise_iou, encode_boxes

FOCAL_EPS = 1e-6


def focal_bce(prob: Tensor, target: Tensor) -> Tensor:
    """Cross entropy between probabilities, weighted by their squared distance (gamma 2), elementwise."""
    log_likelihood = target * (prob + FOCAL_EPS).log() + (1 - target) * (1 - prob + FOCAL_EPS).log()
    return -((prob - target) ** 2) * log_likelihood


def mil_bag_loss(
    class_prob: Tensor,
    instance_logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    weight: Tensor | None = None,
    kind: Literal["bce", "focal"] = "bce",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Multiple-instance loss: the bag's probability of its own label against all others (Eq. 3 of the paper; WSDDN).

    Args:
        class_prob: ``(G, P, C')`` softmax (stage I, ``C' = C + 1``) or sigmoid (stage II, ``C' = C``) probabilities.
        instance_logits: ``(G, P, C')``.
        labels: ``(G,)`` in ``[0, C)``.
        valid: ``(G, P)``.
        weight: ``(G,)`` weight of each bag.
        kind: ``"bce"`` divides by the bags with a valid candidate, ``"focal"`` by all bags (at least 1).
        normalizer: divisor in place of that count.
    """
    bag_prob = (class_prob * instance_scores(instance_logits, valid)).sum(1)
    onehot = F.one_hot(labels, bag_prob.shape[1]).to(bag_prob.dtype)
    if kind == "bce":
        per_bag = F.binary_cross_entropy(bag_prob.clamp(0, 1), onehot, reduction="none").sum(1)
        count: Tensor | float = valid.bool().any(1).sum().clamp(min=1)
    else:
        per_bag = focal_bce(bag_prob, onehot).sum(1)
        count = max(1, len(labels))
    if weight is not None:
        per_bag = per_bag * weight
    return per_bag.sum() / (count if normalizer is None else normalizer)


def negative_loss(class_prob: Tensor, keep: Tensor, normalizer: Tensor | float) -> Tensor:
    """Focal loss that pushes background boxes ``(..., C)`` towards no class; ``keep`` ``(...)`` masks them."""
    per_box = focal_bce(class_prob, torch.zeros_like(class_prob)).sum(-1)
    return (per_box * keep).sum() / normalizer


def spsd_loss(
    offsets: Tensor,
    bags: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Spatial position self-distillation: L1 distance of predicted offsets to those that reach the bag's box (Eq. 4).

    Offsets are in the units of the R-CNN coder, standard deviations (0.1, 0.1, 0.2, 0.2).

    Args:
        offsets: ``(G, P, 4)`` predicted for each candidate.
        bags: ``(G, P, 4)`` the candidates.
        target: ``(G, 4)``; no gradient flows into it.
        weight: ``(G,)``.
        normalizer: divisor in place of the number of bags ``G``; the mean over ``P`` is always taken.
    """
    goal = encode_boxes(bags, target[:, None].detach(), ROI_STDS)
    per_bag = (offsets - goal).abs().sum(-1).mean(1)
    if weight is not None:
        per_bag = per_bag * weight
    return per_bag.sum() / (max(1, len(bags)) if normalizer is None else normalizer)


def sisd_loss(iou_logits: Tensor, bags: Tensor, target: Tensor, normalizer: Tensor | float | None = None) -> Tensor:
    """Spatial identity self-distillation: smooth L1 of the predicted IoU ``(G, P)`` with the stage-I box ``(G, 4)``.

    The target is ``(IoU - 0.5) / 0.5``, in [-1, 1], without gradient.
    """
    goal = (elementwise_iou(bags, target[:, None]).detach() - 0.5) / 0.5
    per_bag = F.smooth_l1_loss(iou_logits, goal, beta=1.0, reduction="none").mean(1)
    return per_bag.sum() / (max(1, len(bags)) if normalizer is None else normalizer)
