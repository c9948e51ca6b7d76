"""Pictures of what a masked autoencoder recovers, and the HTML pages of pre-training and generic distillation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireo.data.image_sets import normalization
from vireo.report import as_picture, grid, write_picture, write_run_report

from .mae import MaskedAutoencoder


def recovery_grid(
    network: MaskedAutoencoder, images: Tensor, noise: Tensor, data: Any, mask_ratio: float = 0.75
) -> np.ndarray:
    """Original, what the network sees, and its prediction, a row for each image: the figure of MAE.

    Args:
        network: left in evaluation mode.
        images: normalised ``(B, 3, H, W)``.
        noise: ``(B, N)`` that decides on the masks.
        data: configuration, for mean and deviation of the images.
        mask_ratio: share of patches to remove.

    Returns:
        uint8 ``(H', W', 3)``.
    """
    network.eval()
    parts = {"original": images, **network.reconstruct(images, noise, mask_ratio)}
    constants = normalization(data)
    cells = [
        as_picture((parts[name][row].cpu() / constants.inverse_std + constants.mean) / 255)
        for row in range(len(images))
        for name in ("original", "input", "prediction")
    ]
    captions = ["original", f"{100 * mask_ratio:.0f} % masked", "prediction"] + [""] * (len(cells) - 3)
    return grid(cells, 3, captions)


@torch.no_grad()
def write_gallery(network: MaskedAutoencoder, images: Tensor, noise: Tensor, config: Any, folder: Path) -> None:
    """``gallery/recovery.png`` of a run."""
    picture = recovery_grid(network, images, noise, config.data, config.mask_ratio)
    write_picture(folder / "gallery" / "recovery.png", picture)


def write_pretraining_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a pre-training run from the files in its folder."""
    pictures = {"Original, what the network sees, what it makes of it": "recovery.png"}
    return write_run_report(folder, "Pre-training of a masked autoencoder", pictures, paper_metrics=paper_metrics)


def write_distillation_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run of generic distillation from the files in its folder."""
    return write_run_report(folder, "Generic distillation", {}, paper_metrics=paper_metrics)
