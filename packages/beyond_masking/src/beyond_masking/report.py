"""Pictures of what is lost and recovered, and the HTML pages of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vireo import report
from vireo.report import as_picture, grid, write_picture
from vireo.report.html import Table

from .draws import Draws
from .model import TokenPretrainModel


def recovery_grid(network: TokenPretrainModel, images: Tensor, draws: Draws | None = None) -> np.ndarray:
    """Original, what the encoder sees, and its prediction, a row for each image: the paper's figure.

    Args:
        network: left in evaluation mode.
        images: ImageNet-normalised ``(B, 3, crop, crop)``.
        draws: of degradation and mask; None is torch's global generator.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    network.eval()
    parts = network.reconstruct(images, draws=draws)
    captions = ["original", network.task, "prediction"] + [""] * (3 * len(images) - 3)
    cells = [as_picture(parts[name][row]) for row in range(len(images)) for name in ("original", "input", "prediction")]
    return grid(cells, 3, captions)


def write_gallery(network: TokenPretrainModel, images: Tensor, folder: Path) -> None:
    """``gallery/recovery.png`` of a run."""
    write_picture(folder / "gallery" / "recovery.png", recovery_grid(network, images))


def write_pretraining_report(
    folder: Path, paper_metrics: Mapping[str, float] | None = None, tables: Sequence[Table] = ()
) -> Path:
    """``report.html`` of a pre-training run from the files in its folder."""
    return write_run_report(folder, "Pre-training beyond masking", paper_metrics, tables)


def write_finetuning_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a fine-tuning run from the files in its folder."""
    return write_run_report(folder, "Fine-tuning beyond masking", paper_metrics)


def write_run_report(
    folder: Path, title: str, paper_metrics: Mapping[str, float] | None = None, tables: Sequence[Table] = ()
) -> Path:
    """``report.html`` of a run: metrics, curves and the pictures of its gallery."""
    pictures = {"Original, what the encoder sees, what it makes of it": "*.png"}
    return report.write_run_report(folder, title, pictures, paper_metrics=paper_metrics, tables=tables)
