"""Mean intersection over union of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vireo.errors import InputError


class SegmentationScore:
    """Counts pixels by true and predicted class over an evaluation, on the device where they are.

    Args:
        classes: names by label.
        ignore: label of pixels that do not count.
    """

    def __init__(self, classes: Sequence[str], ignore: int = 255) -> None:
        self.classes, self.ignore = tuple(classes), ignore
        self._counts = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add pixels: integers of one shape, such as ``(B, H, W)``.

        Raises:
            InputError: shapes that differ, or a class out of range. The check waits for the device.
        """
        where = "SegmentationScore"
        if predictions.shape != labels.shape:
            what = f"predictions {tuple(predictions.shape)} for labels {tuple(labels.shape)}"
            raise InputError(what, where, "Resize the scores to the size of the labels")
        number = len(self.classes)
        valid = labels != self.ignore
        true, found = labels[valid].long(), predictions[valid].long()
        if true.numel() == 0:
            return
        least, greatest = int(torch.minimum(true.min(), found.min())), int(torch.maximum(true.max(), found.max()))
        if least < 0 or greatest >= number:
            what = f"classes from {least} to {greatest} where 0 to {number - 1} are known"
            raise InputError(what, where, "Check that model and data have the same classes")
        counts = torch.bincount(true * number + found, minlength=number * number).view(number, number)
        self._counts = self._counts.to(counts.device) + counts

    def confusion(self) -> Tensor:
        """Pixels over all processes, int64 ``(true class, predicted class)`` on the CPU; a collective call.

        The processes' images must be disjoint, as the loaders' are.
        """
        import torch.distributed as dist

        counts = self._counts
        if dist.is_available() and dist.is_initialized():
            # a process without images still has its counts on the CPU
            counts = counts.cuda() if dist.get_backend() == "nccl" else counts.cpu().clone()
            dist.all_reduce(counts)
        return counts.cpu()

    def compute(self) -> dict[str, Any]:
        """Scores over all processes, each of which must call this.

        Returns:
            ``mIoU``, the mean of TP / (TP + FP + FN) over the classes that are there or were predicted; ``mAcc``, the
            mean of TP / (TP + FN) over those that are there; ``aAcc``, the share of correct pixels; ``per_class``, the
            IoU by name, None for a class that is nowhere. Fractions in [0, 1].

        Raises:
            InputError: no pixels at all.
        """
        counts = self.confusion().double()
        if not counts.sum():
            raise InputError("no pixels were evaluated", "SegmentationScore", "Give at least one image with labels")
        correct, true = counts.diagonal(), counts.sum(1)
        iou = correct / (true + counts.sum(0) - correct)  # 0 / 0 is NaN: such a class does not count
        accuracy = correct / true
        return {
            "mIoU": float(iou.nanmean()),
            "mAcc": float(accuracy.nanmean()),
            "aAcc": float(correct.sum() / counts.sum()),
            "per_class": {name: None if value != value else value for name, value in zip(self.classes, iou.tolist())},
        }
