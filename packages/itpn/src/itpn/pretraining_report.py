"""Pictures of what pre-training recovers, and the HTML page of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireo.data.image_sets import normalization
from vireo.report import as_picture, grid, write_picture, write_run_report

from .pixel import MaskedPyramidAutoencoder


def recovery_grid(network: MaskedPyramidAutoencoder, images: Tensor, noise: Tensor, data: Any) -> np.ndarray:
    """Original, what the network sees, and its prediction, a row for each image: the figure of MAE.

    Args:
        network: left in evaluation mode.
        images: normalised ``(B, 3, H, W)``.
        noise: ``(B, N)`` that decides on the masks.
        data: configuration, for mean and deviation of the images.

    Returns:
        uint8 ``(H', W', 3)``.
    """
    network.eval()
    parts = {"original": images, **network.reconstruct(images, noise)}
    constants = normalization(data)
    cells = [
        as_picture((parts[name][row].cpu() / constants.inverse_std + constants.mean) / 255)
        for row in range(len(images))
        for name in ("original", "input", "prediction")
    ]
    captions = ["original", f"{100 * network.mask_ratio:.0f} % masked", "prediction"] + [""] * (len(cells) - 3)
    return grid(cells, 3, captions)


@torch.no_grad()
def write_gallery(network: MaskedPyramidAutoencoder, images: Tensor, noise: Tensor, data: Any, folder: Path) -> None:
    """``gallery/recovery.png`` of a run."""
    write_picture(folder / "gallery" / "recovery.png", recovery_grid(network, images, noise, data))


def write_pretraining_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a pre-training run from the files in its folder."""
    pictures = {"Original, what the network sees, what it makes of it": "recovery.png"}
    return write_run_report(folder, "Pre-training of a pyramid", pictures, paper_metrics=paper_metrics)
