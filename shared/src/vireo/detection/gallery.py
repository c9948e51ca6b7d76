"""Pictures of a detector's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vireo.data import DetectionDataset
from vireo.detection.evaluate import MASK_THRESHOLD
from vireo.detection.sets import build_loader
from vireo.report import draw_detections, grid, write_picture

GALLERY = {"Evaluation images: truth and detections": "detections_*.png"}  # as vireo.report.write_run_report takes it
SCORE_SHOWN = 0.5


@torch.no_grad()
def write_gallery(model: Any, dataset: DetectionDataset, data: Any, count: int, folder: Path, device: Any) -> None:
    """``gallery/detections_*.png``: truth and detections, of a score of 0.5 or more, side by side.

    Args:
        model: a detector; left in evaluation mode.
        dataset: of which ``count`` images with objects, evenly spaced, are drawn.
        data: its configuration, see :func:`~vireo.detection.build_loader`.
        count: images.
        folder: of the run.
        device: of the model.
    """
    kept = [record for record in dataset.records if len(record)]
    count = min(count, len(kept))
    if not count:
        return
    chosen = dataset.with_records([kept[i] for i in np.linspace(0, len(kept) - 1, count).astype(int)])
    loader = build_loader(chosen, data, False, device=device, rank=0, world_size=1, seed=0)
    model.eval()
    number = 0
    for images, _ in loader.batches(0):
        for found in model(images):
            picture, truth = chosen[number]
            sure = found["scores"] >= SCORE_SHOWN
            boxes, labels, scores = (found[name][sure].cpu() for name in ("boxes", "labels", "scores"))
            masks = found["masks"][sure, 0].cpu() > MASK_THRESHOLD if "masks" in found else None
            options: dict[str, Any] = {"classes": dataset.classes}
            cells = [
                draw_detections(picture, truth["boxes"], truth["labels"], masks=truth.get("masks"), **options),
                draw_detections(picture, boxes, labels - 1, scores, masks=masks, **options),
            ]
            panel = grid(cells, 2, ["truth", f"detections (score >= {SCORE_SHOWN})"])
            write_picture(folder / "gallery" / f"detections_{number:02d}.png", panel)
            number += 1
