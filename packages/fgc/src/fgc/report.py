"""Pictures and the HTML page of a training run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vireo import report
from vireo.data import ClassificationDataset
from vireo.report import grid, plot_lines, write_picture
from vireo.report.html import Table

from .data import build_loader
from .gate import gates_of
from .heatmaps import draw_gate_patterns, draw_gates

PATTERN_IMAGES = 20  # of a class, in the picture of a block
PATTERN_CLASSES = 10


def draw_gallery(network: nn.Module, dataset: ClassificationDataset, data: Any, folder: Path, count: int) -> None:
    """Write ``gallery/gates_*.png`` (images with their open gates) and ``gallery/block_*.png`` (patterns by class).

    Args:
        network: on any device; left in evaluation mode.
        dataset: evaluation images.
        data: data configuration.
        folder: of the run.
        count: images of the first kind; 0 for no pictures at all.
    """
    if count == 0:
        return
    gallery = folder / "gallery"
    device = next(network.parameters()).device
    chosen = np.concatenate(
        [np.flatnonzero(dataset.labels == label)[:PATTERN_IMAGES] for label in range(len(dataset.classes))[:100]]
    )
    subset = dataset.with_indices(chosen)
    loader = build_loader(subset, data, train=False, device=device)
    parts: list[list[Tensor]] = []
    predicted: list[Tensor] = []
    labels: list[Tensor] = []
    network.eval()
    with torch.no_grad():
        batches: Iterable[tuple[Tensor, dict[str, Tensor]]] = loader.batches(0)  # type: ignore[assignment]
        for images, targets in batches:
            predicted.append(network(images).argmax(1).cpu())
            labels.append(targets["label"].cpu())
            parts.append([gate.logits.detach().cpu() for gate in gates_of(network) if gate.logits is not None])
    logits = [torch.cat(part) for part in zip(*parts)]
    guesses, truth = torch.cat(predicted), torch.cat(labels)
    shown = np.linspace(0, len(truth) - 1, min(count, len(truth))).astype(int)
    for number, index in enumerate(shown):
        words = f"{dataset.classes[truth[index]]}, taken for {dataset.classes[guesses[index]]}"
        image = subset.load_image(int(index)).permute(1, 2, 0).numpy()
        picture = image_with_gates(image, [block[index] for block in logits], words)
        write_picture(gallery / f"gates_{number:02d}.png", picture)
    for block in sorted({0, len(logits) // 2, len(logits) - 2, len(logits) - 1} & set(range(len(logits)))):
        picture = draw_gate_patterns(logits[block], truth, min(len(dataset.classes), PATTERN_CLASSES))
        write_picture(gallery / f"block_{block:02d}.png", picture)


def image_with_gates(image: np.ndarray, logits: Sequence[Tensor], caption: str) -> np.ndarray:
    """An image beside the heat map of its gates, see :func:`~fgc.heatmaps.draw_gates`.

    Args:
        image: uint8 ``(H, W, 3)`` RGB.
        logits: per block ``(C,)``.
        caption: above the image.
    """
    import cv2

    gates = draw_gates(logits, width=max(512, *(len(z) for z in logits)))
    side = max(gates.shape[0], 160)
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if scale > 2 else cv2.INTER_AREA)
    rate = torch.cat([z > 0 for z in logits]).float().mean()
    return grid([enlarged, gates], 2, [caption, f"open gates by block, first on top ({100 * rate:.0f} % open)"])


def write_run_report(
    folder: Path,
    title: str,
    paper_metrics: Mapping[str, float] | None = None,
    tables: Sequence[Table] = (),
) -> Path:
    """``report.html`` of a run from the files in its folder."""
    pictures = {
        "Images and the channels that fire for them": "gates_*.png",
        "Gates of a block (columns, from the most to the least often open) over images (rows) by class": "block_*.png",
    }
    options: dict[str, Any] = {"paper_metrics": paper_metrics, "tables": tables, "own_curves": gate_curves}
    return report.write_run_report(folder, title, pictures, **options)


def gate_curves(records: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Over the evaluations of a log: on-rate of each block, overlap of neighbourhoods, error against pruning."""
    evaluations = [record for record in records if record.get("kind") == "eval"]
    curves = {}
    for title, metric in (("On-rate by block", "on_rate"), ("Neighbours shared by features and gates", "overlap")):
        series: dict[str, tuple[list[float], list[float]]] = {}
        for record in evaluations:
            for block, value in record["metrics"].get(metric, {}).items():
                x, y = series.setdefault(f"block {block}", ([], []))
                x.append(record["epoch"] + 1)
                y.append(value)
        if series:
            curves[title] = plot_lines(series, "epoch")
    if evaluations:
        metrics = [record["metrics"] for record in evaluations]
        path = ([100 * entry["pruning"] for entry in metrics], [entry["top1_error"] for entry in metrics])
        curves["Error against pruning, one point an evaluation"] = plot_lines(
            {"error": path}, "pruning, %", "top-1 error, %"
        )
    return curves
