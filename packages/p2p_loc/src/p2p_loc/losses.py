"""Losses of the networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017), alpha 0.25, gamma 2, summed over the classes.

    Args:
        logits: ``(..., C)``, float32.
        labels: ``(...)`` in ``[0, C]``; C is the background, for which every class is off.

    Returns:
        ``(...)``.
    """
    target = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
    return sigmoid_focal_loss(logits, target, FOCAL_ALPHA, FOCAL_GAMMA).sum(-1)


def smooth_l1(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    """Huber's loss in the form of Fast R-CNN, quadratic below ``beta``, summed over the last dimension: ``(...)``."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").sum(-1)
