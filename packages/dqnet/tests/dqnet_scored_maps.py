"""Maps and masks to score, and what pysodmetrics says of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import py_sod_metrics

# of one image, by the names of dqnet.metric_parts.ImageScores
KEYS = ("Smeasure", "wFmeasure", "MAE", "adpEm", "adpFm", "em_curve", "fm_curve")
TABLE = ("Smeasure", "wFmeasure", "MAE", "adpEm", "meanEm", "maxEm", "adpFm", "meanFm", "maxFm")


def reference(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray | float]:
    """All metrics of pysodmetrics over (map, mask) pairs, by our names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mae, structure, weighted = py_sod_metrics.MAE(), py_sod_metrics.Smeasure(), py_sod_metrics.WeightedFmeasure()
        alignment, f = py_sod_metrics.Emeasure(), py_sod_metrics.Fmeasure()
        for pred, mask in pairs:
            for metric in (mae, structure, weighted, alignment, f):
                metric.step(pred=pred, gt=mask)
        em, fm = alignment.get_results()["em"], f.get_results()["fm"]
        found = {"Smeasure": structure.get_results()["sm"], "wFmeasure": weighted.get_results()["wfm"]}
        found["MAE"] = mae.get_results()["mae"]
    for name, result in (("em", em), ("fm", fm)):
        title, curve = name.title(), np.asarray(result["curve"])
        found |= {f"adp{title}": result["adp"], f"{name}_curve": curve}
        found |= {f"mean{title}": curve.mean(), f"max{title}": curve.max()}
    return found


def blob(seed: int, height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """An object, and a map that finds most of it, as uint8 ``(height, width)``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    centre, phase = rng.uniform(0.2, 0.5, 2), rng.uniform(0, 6)
    angle = np.arctan2(y - centre[0], x - centre[1])
    inside = rng.uniform(0.1, 0.25) * (1 + 0.2 * np.cos(3 * angle + phase)) - np.hypot(y - centre[0], x - centre[1])
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 4)
    pred = 255 / (1 + np.exp(-(inside + 0.3 * noise) / 0.03))
    return pred.astype(np.uint8), np.where(inside > 0, 255, 0).astype(np.uint8)


def odd_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A small map of few or many levels, in noise or blocks, and a mask of dots, a box, blocks or grey values."""
    height, width = rng.integers(1, 40, 2)

    def blocks(values: np.ndarray) -> np.ndarray:
        return np.kron(rng.choice(values, (4, 4)), np.ones((10, 10)))[:height, :width]

    few = rng.integers(0, 256, rng.integers(1, 5))
    maps = (rng.choice(few, (height, width)), blocks(few), rng.integers(0, 256, (height, width)))
    rows, columns = (slice(*sorted(rng.integers(0, side + 1, 2))) for side in (height, width))
    box = np.zeros((height, width))
    box[rows, columns] = 255
    dots = 255 * (rng.random((height, width)) < rng.choice([0.02, 0.3, 0.9]))
    masks = (dots, box, blocks(np.array([0, 255])), rng.integers(0, 256, (height, width)))
    return maps[rng.integers(len(maps))].astype(np.uint8), masks[rng.integers(len(masks))].astype(np.uint8)


def write_folders(root: Path, count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """``root/maps`` and ``root/masks`` with PNG files ``image_<n>.png`` of several sizes; returns their content."""
    pairs = [blob(seed, 40 + 4 * seed, 50) for seed in range(count)]
    for number, pair in enumerate(pairs):
        for folder, image in zip(("maps", "masks"), pair):
            (root / folder).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / folder / f"image_{number}.png"), image)
    return pairs
