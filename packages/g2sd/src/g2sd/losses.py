"""Losses of specific distillation for classification (section 3.5 of the notes).

Legend of shapes: B images, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError


def hard_distillation_loss(
    cls_logits: Tensor, dist_logits: Tensor, targets: Tensor, teacher_logits: Tensor, weight: float = 0.5
) -> Tensor:
    """Cross-entropy of the class token with the labels, and of the distillation token with the teacher's decisions.

    Args:
        cls_logits: ``(B, C)`` from the class token.
        dist_logits: ``(B, C)`` from the distillation token.
        targets: labels int64 ``(B,)``, or soft ones ``(B, C)``.
        teacher_logits: ``(B, C)``, or the classes they decide for, int64 ``(B,)``.
        weight: share of the teacher in the loss, in [0, 1]; published: 0.5.

    Raises:
        InputError: shapes or a weight that do not fit.
    """
    require_weight(weight)
    decided = teacher_logits if teacher_logits.ndim == 1 else teacher_logits.argmax(1)
    if teacher_logits.ndim == 2:
        _require_same_classes(dist_logits, teacher_logits)
    truth = F.cross_entropy(cls_logits, targets)
    return (1 - weight) * truth + weight * F.cross_entropy(dist_logits, decided)


def soft_distillation_loss(
    cls_logits: Tensor,
    dist_logits: Tensor,
    targets: Tensor,
    teacher_logits: Tensor,
    weight: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """The same with the teacher's whole distribution: the divergence of the distillation token from it.

    The published recipe has hard labels. The divergence is the mean over the images, times the square of the
    temperature, as in Hinton et al. (2015).

    Args:
        cls_logits, dist_logits, targets, weight: as of :func:`hard_distillation_loss`.
        teacher_logits: ``(B, C)``.
        temperature: by which both are divided.

    Raises:
        InputError: shapes, a weight or a temperature that do not fit.
    """
    require_weight(weight)
    require_positive("temperature", temperature)
    _require_same_classes(dist_logits, teacher_logits)
    own = F.log_softmax(dist_logits / temperature, 1)
    theirs = F.log_softmax(teacher_logits / temperature, 1)
    divergence = F.kl_div(own, theirs, reduction="batchmean", log_target=True) * temperature**2
    return (1 - weight) * F.cross_entropy(cls_logits, targets) + weight * divergence


class NKDLoss(nn.Module):
    """Normalised knowledge distillation (Yang et al., ICCV 2023; section 3.7 of the notes).

    The target's class has the cross-entropy weighted by the teacher's probability of it; the others are compared with
    the teacher's after both are normalised without the target's. Computed from logarithms: finite, with finite
    gradients, where the probability of the target underflows, unlike the authors' code.

    Args:
        temperature: T of the other classes.
        alpha: weight of the other classes.

    Raises:
        InputError: a temperature that is not positive, or a negative weight.
    """

    def __init__(self, temperature: float = 1.0, alpha: float = 1.0) -> None:
        super().__init__()
        require_positive("temperature", temperature)
        if not alpha >= 0:
            raise InputError(f"a weight of {alpha} is negative", "distillation.alpha", "use e.g. 1")
        self.temperature, self.alpha = temperature, alpha

    def forward(self, logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: ``(B, C)`` of the student.
            teacher_logits: ``(B, C)``; without gradient.
            targets: labels int64 ``(B,)``, or soft ones ``(B, C)``, whose greatest entry counts.

        Raises:
            InputError: logits of different shapes.
        """
        _require_same_classes(logits, teacher_logits)
        label = (targets if targets.ndim == 1 else targets.argmax(1))[:, None]
        teacher_logits = teacher_logits.detach()
        confidence = teacher_logits.softmax(1).gather(1, label)
        of_target = -(confidence * F.log_softmax(logits, 1).gather(1, label)).mean()

        is_target = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, label, True)
        hidden = torch.finfo(logits.dtype).min
        own, theirs = ((x / self.temperature).masked_fill(is_target, hidden) for x in (logits, teacher_logits))
        terms = theirs.softmax(1) * F.log_softmax(own, 1).masked_fill(is_target, 0)
        return of_target - self.alpha * self.temperature**2 * terms.sum(1).mean()


def require_weight(weight: float) -> None:
    """Check a share of the loss.

    Raises:
        InputError: it is not between 0 and 1.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"a weight of {weight} is not between 0 and 1", "distillation.weight", "use e.g. 0.5")


def require_positive(name: str, value: float) -> None:
    """Check a number of the distillation.

    Raises:
        InputError: it is not positive.
    """
    if not value > 0:
        raise InputError(f"a {name} of {value} is not positive", f"distillation.{name}", "use e.g. 1")


def _require_same_classes(logits: Tensor, teacher_logits: Tensor) -> None:
    if logits.shape != teacher_logits.shape:
        what = f"the teacher's logits are {tuple(teacher_logits.shape)}, the student's {tuple(logits.shape)}"
        raise InputError(what, "teacher_logits", "give a teacher of the same classes, and the same images")
