"""Pictures and the HTML page of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vireo import report
from vireo.data import DetectionDataset
from vireo.report import draw_detections, grid, write_picture
from vireo.report.html import Table

from .data import build_loader
from .model import SSDDet

SCORE_SHOWN = 0.5


def draw_gallery(
    model: SSDDet, train_set: DetectionDataset, val_set: DetectionDataset, data: Any, folder: Path, count: int
) -> None:
    """Write ``gallery/detections_*.png`` (truth, prediction) and ``gallery/refined_*.png`` (given, refined, true).

    Args:
        model: on any device.
        train_set: its noisy boxes are refined, if the model has a refiner and the true boxes are known.
        val_set: its images are shown with detections.
        data: data configuration.
        folder: of the run.
        count: pictures of each kind.
    """
    gallery = folder / "gallery"
    device = next(model.parameters()).device
    model.eval()
    for dataset, kind in ((val_set, "detections"), (train_set, "refined")):
        if kind == "refined" and (model.refiner is None or dataset.records[0].true_boxes is None):
            continue
        chosen = _spread([i for i, record in enumerate(dataset.records) if len(record)], count)
        subset = dataset.with_records([dataset.records[i] for i in chosen])
        loader = build_loader(subset, data, train=False, seed=0, device=device)
        number = 0
        for images, targets in loader.batches(0):
            with torch.no_grad():
                found = model(images, targets) if kind == "detections" else model.refine(images, targets)
            for target, result in zip(targets, found):
                picture = (_detections if kind == "detections" else _refined)(subset, number, target, result)
                write_picture(gallery / f"{kind}_{number:02d}.png", picture)
                number += 1


def _detections(dataset: DetectionDataset, index: int, target: dict[str, Any], found: dict[str, Any]) -> np.ndarray:
    image, truth = dataset[index]
    shown = found["scores"] >= SCORE_SHOWN
    boxes, labels, scores = (found[name][shown].cpu() for name in ("boxes", "labels", "scores"))
    return grid(
        [
            draw_detections(image, truth["boxes"], truth["labels"], classes=dataset.classes),
            draw_detections(image, boxes, labels, scores, classes=dataset.classes),
        ],
        2,
        ["true boxes", f"detections (score >= {SCORE_SHOWN})"],
    )


def _refined(dataset: DetectionDataset, index: int, target: dict[str, Any], found: dict[str, Any]) -> np.ndarray:
    image, truth = dataset[index]
    height, width = target["size"]
    shrink = torch.tensor([image.shape[2] / width, image.shape[1] / height] * 2)
    rows = [truth["boxes"], found["boxes"].cpu() * shrink, truth["true_boxes"]]
    pictures = [draw_detections(image, boxes, truth["labels"], classes=dataset.classes) for boxes in rows]
    return grid(pictures, 3, ["given (noisy)", "refined", "true"])


def write_run_report(
    folder: Path, title: str, paper_metrics: dict[str, float] | None = None, tables: Sequence[Table] = ()
) -> Path:
    """``report.html`` of a run from the files in its folder."""
    pictures = {
        "Training boxes: given, refined, true": "refined_*.png",
        "Evaluation images: true boxes and detections": "detections_*.png",
    }
    return report.write_run_report(folder, title, pictures, paper_metrics=paper_metrics, tables=tables)


def _spread(indices: list[int], count: int) -> list[int]:
    """``count`` of the indices, evenly over their range."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
    return [indices[i] for i in places]
