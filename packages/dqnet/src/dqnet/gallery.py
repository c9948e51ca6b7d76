"""Pictures of what a network finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vireo.report import as_picture, grid, write_picture

from .data import build_loader
from .evaluation import probability_maps
from .mask_dataset import MaskDataset

PICTURES = {"Evaluation images: mask and map": "map_*.png"}  # for vireo.report.write_run_report


def write_gallery(
    model: nn.Module, dataset: MaskDataset, data: Any, image_size: int, count: int, folder: Path, device: Any
) -> None:
    """``gallery/map_*.png`` in a folder: image, mask and predicted map of evaluation images, evenly chosen.

    Args:
        model: images to logits; left in evaluation mode.
        dataset: to choose from.
        data: its configuration; see :func:`~dqnet.data.build_loader`.
        image_size: side of the network's images.
        count: pictures, at most.
        folder: of the run.
        device: of the model.
    """
    count = min(count, len(dataset))
    if not count:
        return
    chosen = dataset.with_indices(np.linspace(0, len(dataset) - 1, count).astype(int))
    model.eval()
    number = 0
    loader = build_loader(chosen, data, image_size, train=False, device=device, rank=0, world_size=1, seed=0)
    for images, targets in loader.batches(0):
        sizes = [(target["mask"].shape[0], target["mask"].shape[1]) for target in targets]
        for target, found in zip(targets, probability_maps(model, images, sizes)):
            original, _ = chosen[number]
            grey = [torch.as_tensor(image).cpu()[None].expand(3, -1, -1) for image in (target["mask"], found)]
            cells = [as_picture(image / 255) for image in (original, *grey)]
            picture = grid(cells, 3, ["image", "mask", "map"])
            write_picture(folder / "gallery" / f"map_{number:02d}.png", picture)
            number += 1
