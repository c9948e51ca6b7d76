"""Specific distillation of detectors: imitate a teacher's pyramid and objectness where it sees objects (section 3.6).

Legend of shapes: B images, C channels of the pyramid, A anchors of a place, H x W places of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError


class ImitationLosses(NamedTuple):
    """Two scalars, weighted and with the warm-up: their sum is added to the detector's losses.

    Attributes:
        features: of the pyramid's maps.
        objectness: of the region proposal network's logits.
    """

    features: Tensor
    objectness: Tensor


class ObjectnessWeightedImitation(nn.Module):
    """How far a student's pyramid and objectness are from a teacher's, at places that the teacher takes for objects.

    A place counts by the greatest objectness of its anchors, as the teacher has it. Channels and anchors are summed,
    places averaged by that weight, levels summed. The student's maps first pass a 3x3 convolution of their level, which
    is thrown away after training.

    Args:
        channels: C, of teacher and student alike.
        levels: of the pyramid.
        feature_weight, logit_weight: of the two losses.
        warmup: iterations in which both weights rise from 0 in a line.

    Attributes:
        conv: the convolutions, finest level first.

    Raises:
        InputError: negative weights or warm-up.
    """

    def __init__(
        self,
        channels: int = 256,
        levels: int = 5,
        feature_weight: float = 1e-3,
        logit_weight: float = 0.1,
        warmup: int = 500,
    ) -> None:
        super().__init__()
        if min(feature_weight, logit_weight, warmup) < 0:
            what = f"feature_weight {feature_weight}, logit_weight {logit_weight}, warmup {warmup}: one is negative"
            raise InputError(what, "imitation", "use e.g. 0.001, 0.1 and 500")
        self.feature_weight, self.logit_weight, self.warmup = feature_weight, logit_weight, warmup
        self.conv = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels))

    def adapted(self, student_features: Sequence[Tensor]) -> list[Tensor]:
        """The student's maps ``(B, C, H_i, W_i)`` behind their convolutions."""
        return [conv(features) for conv, features in zip(self.conv, student_features, strict=True)]

    def forward(
        self,
        student_features: Sequence[Tensor],
        teacher_features: Sequence[Tensor],
        student_objectness: Sequence[Tensor],
        teacher_objectness: Sequence[Tensor],
        iteration: int,
    ) -> ImitationLosses:
        """The losses of a batch, in float32.

        Args:
            student_features: maps ``(B, C, H_i, W_i)`` of the student, finest first.
            teacher_features: those of the teacher, without gradient.
            student_objectness: logits ``(B, A, H_i, W_i)`` of the student's region proposal network.
            teacher_objectness: those of the teacher, without gradient.
            iteration: optimizer steps done so far.

        Raises:
            InputError: student and teacher of different shapes, or another number of levels.
        """
        self._require_pair("maps", student_features, teacher_features)
        self._require_pair("objectness", student_objectness, teacher_objectness)
        of_features, of_logits = [], []
        for own, theirs, logits, judged in zip(
            self.adapted(student_features), teacher_features, student_objectness, teacher_objectness
        ):
            probability = judged.float().sigmoid()
            weight = probability.amax(1)  # (B, H, W)
            total = weight.sum().clamp(min=torch.finfo(torch.float32).tiny)  # of a teacher that sees nothing
            distance = (theirs.float() - own.float()).square().sum(1)
            entropy = F.binary_cross_entropy_with_logits(logits.float(), probability, reduction="none").sum(1)
            of_features.append((weight * distance).sum() / total)
            of_logits.append((weight * entropy).sum() / total)
        risen = min(1.0, iteration / self.warmup) if self.warmup else 1.0
        return ImitationLosses(
            risen * self.feature_weight * torch.stack(of_features).sum(),
            risen * self.logit_weight * torch.stack(of_logits).sum(),
        )

    def _require_pair(self, name: str, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        shapes = [[tuple(entry.shape) for entry in entries] for entries in (student, teacher)]
        if shapes[0] != shapes[1] or len(shapes[0]) != len(self.conv):
            what = f"the student's {name} are {shapes[0]}, the teacher's {shapes[1]}, for {len(self.conv)} levels"
            raise InputError(what, "imitation", "use a teacher of the same pyramid and the same images")
