"""Pictures of what is lost and recovered, and the HTML pages of the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireo.report import grid, write_report
from vireo.report.html import Table

from .draws import Draws
from .model import TokenPretrainModel

COLUMNS = ("original", "input", "prediction")
CELL = 112  # pixels, at least, of a picture in a grid


def recovery_grid(
    network: TokenPretrainModel, images: Tensor, draws: Draws | None = None, columns: Sequence[str] = COLUMNS
) -> np.ndarray:
    """Input, prediction and original of some images side by side: the paper's figure.

    Args:
        network: left in evaluation mode.
        images: ImageNet-normalised ``(B, 3, crop, crop)``.
        draws: of degradation and mask; None is torch's global generator.
        columns: parts of :meth:`TokenPretrainModel.reconstruct`.

    Returns:
        uint8 ``(H, W, 3)``, a row of captioned pictures for each image.
    """
    network.eval()
    parts = network.reconstruct(images, draws=draws)
    cells, captions = [], []
    for number in range(len(images)):
        for name in columns:
            cells.append(_enlarged(parts[name][number]))
            captions.append(name if number == 0 else "")
    return grid(cells, len(columns), captions)


def _enlarged(image: Tensor) -> np.ndarray:
    """An image in [0, 1] as uint8 ``(H, W, 3)`` of at least :data:`CELL` pixels, by a whole factor."""
    factor = max(1, round(CELL / image.shape[-1]))
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels.repeat(factor, 0).repeat(factor, 1))


def write_gallery(network: TokenPretrainModel, images: Tensor, folder: Path) -> None:
    """``gallery/recovery.png`` of a run."""
    write_png(folder / "gallery" / "recovery.png", recovery_grid(network, images))


def write_pretraining_report(
    folder: Path, paper_metrics: Mapping[str, float] | None = None, tables: Sequence[Table] = ()
) -> Path:
    """``report.html`` of a pre-training run from the files in its folder."""
    return write_run_report(folder, "Pre-training beyond masking", paper_metrics, tables)


def write_run_report(
    folder: Path, title: str, paper_metrics: Mapping[str, float] | None = None, tables: Sequence[Table] = ()
) -> Path:
    """``report.html`` of a run: metrics, curves and the pictures of its gallery."""
    result = json.loads((folder / "metrics.json").read_text())
    records: list[dict[str, Any]] = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    pictures: list[str | Path | np.ndarray] = [*sorted((folder / "gallery").glob("*.png"))]
    gallery = [("Original, what the encoder sees, what it makes of it", pictures)] if pictures else []
    return write_report(
        folder,
        title,
        result["config"],
        records,
        result["metrics"],
        paper_metrics=paper_metrics,
        gallery=gallery,
        tables=tables,
    )


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 ``(H, W, 3)`` RGB as PNG, with the folder."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
