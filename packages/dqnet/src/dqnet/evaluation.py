"""What a network makes of images, and how good it is, as the authors measure it (sections 3.6 and 5.2 of the notes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .metrics import SegmentationMetrics
from .transforms import probability_to_uint8


@torch.no_grad()
def probability_maps(model: nn.Module, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Maps of images as they are scored and saved: bilinear to their sizes, times 255, truncated.

    Args:
        model: images to logits ``(B, 1, h, w)``, in evaluation mode.
        images: normalised ``(B, 3, h, w)`` on the model's device.
        sizes: (H, W) of each result.

    Returns:
        uint8 ``(H, W)`` for each image, 255 for the surest foreground.
    """
    probabilities = model(images).float().sigmoid()
    return [probability_to_uint8(probability[0], size) for probability, size in zip(probabilities, sizes)]


def evaluate(model: nn.Module, loader: Any, use: Callable[[int, np.ndarray], object] | None = None) -> dict[str, float]:
    """Metrics over all processes, each of which must call this.

    Args:
        model: not wrapped for several processes; left in evaluation mode.
        loader: over this process's share; its batches are images and a list of targets with ``mask``, uint8 ``(H, W)``
            as stored, and ``index``.
        use: called with the index and the map, uint8 ``(H, W)``, of each image of this process.

    Returns:
        See :meth:`dqnet.metrics.SegmentationMetrics.compute`.
    """
    model.eval()
    metrics = SegmentationMetrics()
    for images, targets in loader.batches(0):
        masks = [target["mask"].cpu() for target in targets]
        found = probability_maps(model, images, [(mask.shape[0], mask.shape[1]) for mask in masks])
        for pred, mask, target in zip(found, masks, targets):
            metrics.update(pred, mask)
            if use is not None:
                use(int(target["index"]), pred)
    return metrics.compute()
