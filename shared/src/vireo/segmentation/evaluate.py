"""Mean IoU of a segmenter over a loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vireo.evaluation import SegmentationScore
from vireo.segmentation.heads import resize_to
from vireo.segmentation.sliding import Size, sliding_window_logits


@torch.no_grad()
def predict_labels(
    model: nn.Module, images: Tensor, sizes: Sequence[Size], window: Size | None = None, stride: Size | None = None
) -> list[Tensor]:
    """Class indices uint8 ``(H, W)`` of each of some images, in the sizes asked for.

    Args:
        model: images to scores of their size.
        images: normalised, ``(B, 3, h, w)``.
        sizes: (H, W) of each result; scores are resized to it.
        window, stride: see :func:`~vireo.segmentation.sliding_window_logits`; None: whole images.
    """
    if window is None:
        scores = model(images)
    else:
        scores = sliding_window_logits(model, images, window, stride or window)
    return [resize_to(score[None], size)[0].argmax(0).to(torch.uint8) for score, size in zip(scores, sizes)]


def evaluate_segmenter(
    model: nn.Module, loader: Any, classes: Sequence[str], window: Size | None = None, stride: Size | None = None
) -> dict[str, Any]:
    """mIoU and its kin over all processes, each of which must call this.

    Args:
        model: not wrapped for several processes; left in evaluation mode.
        loader: over this process's share, without transforms of labels: batches are lists of normalised images, whose
            sizes may differ, and targets with ``labels`` ``(H, W)`` in the size that counts.
        classes: names by label.
        window, stride: see :func:`predict_labels`.

    Returns:
        See :meth:`vireo.evaluation.SegmentationScore.compute`.
    """
    model.eval()
    score = SegmentationScore(classes)
    for images, targets in loader.batches(0):
        labels = [target["labels"] for target in targets]
        sizes = [(label.shape[-2], label.shape[-1]) for label in labels]
        together = len({image.shape for image in images}) == 1
        groups = [list(range(len(images)))] if together else [[i] for i in range(len(images))]
        for group in groups:
            batch = torch.stack([images[i] for i in group])
            for i, found in zip(group, predict_labels(model, batch, [sizes[i] for i in group], window, stride)):
                score.update(found, labels[i])
    return score.compute()
