"""OA-MIL, the baseline that SSD-Det is compared with: object-aware multiple-instance learning in Faster R-CNN's head.

Source: Liu et al., Robust Object Detection with Inaccurate Bounding Boxes, ECCV 2022 (arXiv 2207.09697), and its code.

From there: the bag of an object (its positive R-CNN samples after regression, scored by a second pass of the same
head), the selection loss, Eq. 4's mixed target, the instance extensions and all constants; also, as settings of
``conf/model/r50_oa_mil.yaml``, the corner coder and the plain pyramid.
Ours: objects are told apart by image and index, not by the sum of their coordinates (which merges some); a batch
without positive samples gives a loss of 0. Classes and objects are averaged within each process, as in their code, so
the loss of several processes is the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vireo.errors import InputError

from .draws import Draws
from .model import SSDDet

GAMMA = 7.5  # exponent of the confidence in Eq. 4
THETA = 0.85  # greatest share of the selected instance
NUM_EXTENSIONS = 4


def selection_score(scores: Tensor, objects: Tensor, labels: Tensor) -> Tensor:
    """Mean over the classes present of the mean over their objects of the best score in an object's bag.

    Args:
        scores: ``(R,)`` confidence in [0, 1] of each instance in its object's class, with gradient.
        objects: ``(R,)`` index in ``[0, N)`` of the object each instance belongs to.
        labels: ``(N,)`` class of every object; objects without an instance do not count.

    Returns:
        A scalar in [0, 1]; 0 without any instance.
    """
    best = scores.new_zeros(len(labels)).scatter_reduce(0, objects, scores, "amax")
    present = torch.zeros_like(best).index_fill(0, objects, 1.0)
    _, group = labels.unique(return_inverse=True)
    total = best.new_zeros(len(labels)).index_add(0, group, best * present)
    count = best.new_zeros(len(labels)).index_add(0, group, present)
    return (total / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


@torch.no_grad()
def mixed_targets(instances: Tensor, scores: Tensor, objects: Tensor, boxes: Tensor) -> Tensor:
    """Noisy boxes moved towards the best instance of their bag (Eq. 4): ``phi * best + (1 - phi) * noisy``.

    ``phi = min(score**7.5, 0.85)``; the best instance is clamped at 0, and a box without instance stays as given.

    Args:
        instances: ``(R, 4)``.
        scores: ``(R,)`` in [0, 1].
        objects: ``(R,)`` index of each instance's box.
        boxes: ``(N, 4)`` noisy.

    Returns:
        ``(N, 4)``, without gradient.
    """
    best = scores.new_zeros(len(boxes)).scatter_reduce(0, objects, scores, "amax")
    row = torch.arange(len(scores), device=scores.device)
    is_best = scores == best[objects]
    first = row.new_full((len(boxes),), len(scores)).scatter_reduce(0, objects[is_best], row[is_best], "amin")
    found = first < len(scores)
    target = boxes.clone()
    phi = best[found, None].pow(GAMMA).clamp(max=THETA)
    target[found] = phi * instances[first[found]].clamp(min=0) + (1 - phi) * boxes[found]
    return target


class OAMILDet(SSDDet):
    """Faster R-CNN trained by OA-MIL; at test time plain Faster R-CNN.

    Args:
        selection_weight: lambda of the selection loss; 0.1, and 0.01 for COCO with 20 % noise.
        extension: ``"refine"`` regresses the instances again and again (COCO, 20 %); ``"repeat"`` regresses the
            samples anew by the offsets predicted at the last instances, and averages all passes (COCO, 40 %; "random"
            in the authors' code).
        selection_epoch: epoch, counted from 1, from which boxes are mixed with selected instances.
        extension_epoch: epoch, counted from 1, from which four more passes extend the bags.
        **options: of :class:`~ssd_det.model.SSDDet`, except ``refiner``.

    Raises:
        InputError: for an unknown ``extension``, or with a ``refiner``.
    """

    def __init__(
        self,
        backbone: Any = "resnet50",
        num_classes: int = 80,
        selection_weight: float = 0.1,
        extension: Literal["refine", "repeat"] = "refine",
        selection_epoch: int = 2,
        extension_epoch: int = 9,
        **options: Any,
    ) -> None:
        if extension not in ("refine", "repeat"):
            raise InputError(f"unknown extension {extension!r}", "model.oa_mil.extension", "use refine or repeat")
        if options.pop("refiner", None) is not None:
            raise InputError("OA-MIL selects boxes in the R-CNN head; it has no refiner", "refiner", "leave it out")
        super().__init__(backbone, num_classes, refiner=None, **options)
        self.selection_weight, self.extension = selection_weight, extension
        self.selection_epoch, self.extension_epoch = selection_epoch, extension_epoch
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins, counted from 0."""
        self.epoch = epoch

    def rcnn_losses(
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        draws: Draws,
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box`` towards the mixed boxes, and ``loss_oa_mil``."""
        rows, match = self.rcnn.sample(proposals, boxes, draws)
        logits, offsets = self.rcnn(features, rows)
        counts = [len(b) for b in boxes]
        noisy, label = torch.cat(boxes), torch.cat(labels)
        firsts = [sum(counts[:i]) for i in range(len(counts))]
        objects = torch.cat([m[m >= 0] + first for m, first in zip(match, firsts)])
        samples = [r[m >= 0] for r, m in zip(rows, match)]
        passes = self._passes(features, samples, offsets[torch.cat(match) >= 0], label[objects])

        if self.epoch + 1 >= self.selection_epoch:
            instances, scores = passes[0]
            boxes = list(mixed_targets(instances, scores.detach(), objects, noisy).split(counts))
        losses = self.rcnn.loss_of_samples(logits, offsets, rows, match, boxes, labels)
        loss = self._selection_loss([selection_score(scores, objects, label) for _, scores in passes])
        return losses | {"loss_oa_mil": loss if len(objects) else 0 * loss}

    def _passes(
        self, features: Sequence[Tensor], samples: list[Tensor], offsets: Tensor, labels: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Instances ``(R, 4)`` and their scores ``(R,)``, for the bag and for each extension of it.

        Args:
            samples: positive samples of each image, ``R`` in all.
            offsets: ``(R, 4 C)`` predicted for them.
            labels: ``(R,)``.
        """
        counts = [len(s) for s in samples]
        start = torch.cat(samples)
        found = []
        for _ in range(1 + (NUM_EXTENSIONS if self.epoch + 1 >= self.extension_epoch else 0)):
            instances = self.rcnn.coder.decode(start, self.rcnn.offsets_of(offsets, labels).detach())
            logits, offsets = self.rcnn(features, instances.split(counts))
            found.append((instances, logits.softmax(-1).gather(1, labels[:, None])[:, 0]))
            if self.extension == "refine":
                start = instances
        return found

    def _selection_loss(self, scores: list[Tensor]) -> Tensor:
        """Weighted distance of the passes' selection scores from 1."""
        distance = 1 - torch.stack(scores)
        if self.extension == "refine" and len(scores) > 1:
            return self.selection_weight * (distance[0] + distance[1:].mean())
        return self.selection_weight * distance.mean()
