"""A detector in training beside its teacher: specific distillation of section 3.6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from vireo.errors import InputError

from .detector import Targets
from .imitation import ObjectnessWeightedImitation


class PyramidAnswer(NamedTuple):
    """What a teacher says of a batch, finest level first.

    Attributes:
        features: maps ``(B, C, H, W)``.
        objectness: logits ``(B, 3, H, W)``.
    """

    features: tuple[Tensor, ...]
    objectness: tuple[Tensor, ...]


class DetectionTeacher(nn.Module):
    """The part of a detector that specific distillation needs: all up to the objectness of places.

    Args:
        detector: of :func:`vitdet_rcnn`, whose parameters it shares.
        classes: their names, or None where they are not known.
    """

    def __init__(self, detector: FasterRCNN, classes: Sequence[str] | None = None) -> None:
        super().__init__()
        self.backbone, self.conv = detector.backbone, detector.rpn.head.conv
        self.cls_logits = detector.rpn.head.cls_logits
        self.num_classes: int = detector.roi_heads.box_predictor.bbox_pred.out_features // 4
        self.classes = None if classes is None else tuple(classes)

    def forward(self, images: Tensor) -> PyramidAnswer:
        """Of normalised images ``(B, 3, S, S)``."""
        maps = tuple(self.backbone(images).values())
        return PyramidAnswer(maps, tuple(self.cls_logits(self.conv(map_)) for map_ in maps))


class DistilledDetector(nn.Module):
    """A detector in training, with the imitation of a teacher if there is one.

    Args:
        detector: of :func:`vitdet_rcnn`.
        imitation: of the teacher's pyramid; None trains without a teacher.
    """

    def __init__(self, detector: FasterRCNN, imitation: ObjectnessWeightedImitation | None = None) -> None:
        super().__init__()
        self.detector, self.imitation = detector, imitation

    def prepare(
        self, images: list[Tensor], targets: Targets | None = None
    ) -> tuple[Tensor, list[tuple[int, int]], Targets]:
        """A batch as student and teacher see it: normalised images ``(B, 3, S, S)``, their sizes without padding, and
        the targets in their pixels, if there are any.
        """
        batch, moved = self.detector.transform(images, targets)
        return batch.tensors, batch.image_sizes, moved or []

    def forward(
        self,
        images: Tensor,
        sizes: list[tuple[int, int]],
        targets: Targets,
        answer: PyramidAnswer | None = None,
        iteration: int = 0,
    ) -> dict[str, Tensor]:
        """The losses of a prepared batch.

        Args:
            images, sizes, targets: of :meth:`prepare`.
            answer: of the teacher to the same images, where there is an imitation.
            iteration: optimizer steps done so far.
        """
        detector = self.detector
        features = detector.backbone(images)
        batch = ImageList(images, sizes)
        boxes, proposal_losses, objectness = detector.rpn.propose(batch, features, targets)
        _, losses = detector.roi_heads(features, boxes, sizes, targets)
        losses = {**losses, **proposal_losses}
        if self.imitation is not None:
            if answer is None:
                raise InputError("the teacher was not asked", "answer", "give what the teacher says of the images")
            maps = tuple(features.values())
            found = self.imitation(maps, answer.features, objectness, answer.objectness, iteration)
            losses |= {"imitation_features": found.features, "imitation_objectness": found.objectness}
        return losses


def require_pair(teacher: DetectionTeacher, student: FasterRCNN, classes: Sequence[str]) -> None:
    """Check that a detector can learn from a teacher.

    Args:
        teacher: the teacher.
        student: the detector.
        classes: its classes.

    Raises:
        InputError: pyramids of other channels or strides, or other classes.
    """
    where = "teacher and student"
    theirs, own = teacher.backbone, student.backbone
    if theirs.out_channels != own.out_channels:
        what = f"the teacher's pyramid has {theirs.out_channels} channels, the student's {own.out_channels}"
        raise InputError(what, where, f"use detector.channels={theirs.out_channels}, or another teacher")
    if theirs.strides != own.strides:
        what = f"the teacher's maps have strides of {theirs.strides}, the student's of {own.strides}"
        raise InputError(what, where, "use patches of the same size")
    if teacher.classes is not None and teacher.classes != tuple(classes):
        what = f"the teacher detects {_listed(teacher.classes)}, the data have {_listed(classes)}"
        raise InputError(what, where, "use a teacher that was trained on these data")
    if teacher.num_classes != len(classes):
        what = f"the teacher detects {teacher.num_classes} classes, the data have {len(classes)}"
        raise InputError(what, where, "use a teacher that was trained on these data")


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
