"""Pictures of what a segmenter finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vireo.data import SegmentationDataset
from vireo.report import draw_segmentation, grid, write_picture
from vireo.segmentation.evaluate import predict_labels
from vireo.segmentation.loaders import build_loader
from vireo.segmentation.sliding import Size

PICTURES = {"Evaluation images: labels and predictions": "labels_*.png"}  # for vireo.report.write_run_report


def write_gallery(
    model: nn.Module,
    dataset: SegmentationDataset,
    data: Any,
    count: int,
    folder: Path,
    device: Any,
    window: Size | None = None,
    stride: Size | None = None,
) -> None:
    """``gallery/labels_*.png`` in a folder: image, labels and prediction of evaluation images, evenly chosen.

    Args:
        model: images to scores; left in evaluation mode.
        dataset: to choose from.
        data: its configuration; see :func:`~vireo.segmentation.build_loader`.
        count: pictures, at most.
        folder: of the run.
        device: of the model.
        window, stride: see :func:`~vireo.segmentation.evaluate.predict_labels`.
    """
    count = min(count, len(dataset))
    if not count:
        return
    chosen = dataset.with_indices(np.linspace(0, len(dataset) - 1, count).astype(int))
    loader = build_loader(chosen, data, False, device=device, rank=0, world_size=1, seed=0)
    model.eval()
    number = 0
    for images, targets in loader.batches(0):
        for image, target in zip(images, targets):
            labels = target["labels"]
            size = (labels.shape[0], labels.shape[1])
            (found,) = predict_labels(model, image[None], [size], window, stride)
            picture, _ = chosen[number]
            cells = [draw_segmentation(picture, drawn.cpu(), opacity=0.6) for drawn in (labels, found)]
            original = draw_segmentation(picture, labels.cpu(), opacity=0.0)
            panel = grid([original, *cells], 3, ["image", "labels", "prediction"])
            write_picture(folder / "gallery" / f"labels_{number:02d}.png", panel)
            number += 1
