"""The metrics of camouflaged object detection against pysodmetrics: 500 maps of 384 x 384, from arrays to the numbers.

    python benchmarks/dqnet_metrics.py [--repetitions 3] [--images 500]

Half of the maps are sure of most pixels, as a trained network's are; the others are noisy everywhere. pysodmetrics runs
as it is used, one image after the other in one process; ours in as many threads as there are cores. The sides take
turns; the ratio is that of the medians. Every number must agree to 1e-9, or nothing is written.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from common import ratio, speed_parser, write_speed
from timing import medians

from dqnet.metrics import NAMES, SegmentationMetrics

SIDE = 384
SEED = 0
TOLERANCE = 1e-9

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


def scene(images: int) -> Pairs:
    """Maps, uint8 ``(384, 384)``, and masks of one object of 2 to 30 % of the image."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    pairs = []
    for number in range(images):
        centre, radius, phases = rng.uniform(0.25, 0.75, 2), rng.uniform(0.1, 0.3), rng.uniform(0, 2 * np.pi, 4)
        angle = np.arctan2(y - centre[0], x - centre[1])
        edge = radius * (1 + sum(0.15 / m * np.cos(m * angle + phase) for m, phase in enumerate(phases, start=2)))
        inside = edge - np.hypot(y - centre[0], x - centre[1])
        error = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)), (0, 0), 6)
        pred = 255 / (1 + np.exp(-(inside + 0.3 * error) / 0.02))
        if number % 2:
            pred = np.clip(pred + rng.uniform(0, 40, pred.shape), 0, 255)
        pairs.append((pred.astype(np.uint8), np.where(inside > 0, 255, 0).astype(np.uint8)))
    return pairs


def with_dqnet(pairs: Pairs) -> list[float]:
    """The nine numbers."""
    metrics = SegmentationMetrics()
    for pred, mask in pairs:
        metrics.update(pred, mask)
    found = metrics.compute()
    return [found[name] for name in NAMES]


def with_pysodmetrics(pairs: Pairs) -> list[float]:
    """The same by the reference implementation."""
    import py_sod_metrics as sod

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class will have another name
        mae, structure, weighted, alignment, f = (
            kind() for kind in (sod.MAE, sod.Smeasure, sod.WeightedFmeasure, sod.Emeasure, sod.Fmeasure)
        )
    for pred, mask in pairs:
        for metric in (mae, structure, weighted, alignment, f):
            metric.step(pred=pred, gt=mask)
    em, fm = alignment.get_results()["em"], f.get_results()["fm"]
    numbers = [structure.get_results()["sm"], weighted.get_results()["wfm"], mae.get_results()["mae"]]
    for result in (em, fm):
        numbers += [result["adp"], result["curve"].mean(), result["curve"].max()]
    return [float(number) for number in numbers]


def timed(side: Callable[[Pairs], list[float]], pairs: Pairs) -> tuple[float, list[float]]:
    """Seconds and numbers of one evaluation."""
    start = time.perf_counter()
    numbers = side(pairs)
    return time.perf_counter() - start, numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_dqnet_metrics.json``; exit status 1 if the numbers differ."""
    arguments = speed_parser(__doc__, repetitions=3, images=500).parse_args(argv)  # --gpu changes nothing
    sides = {"dqnet": with_dqnet, "pysodmetrics": with_pysodmetrics}
    pairs = scene(arguments.images)
    for side in sides.values():
        timed(side, pairs[:4])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    numbers: dict[str, list[float]] = {}
    for _ in range(arguments.repetitions):
        for name, side in sides.items():
            elapsed, numbers[name] = timed(side, pairs)
            seconds[name].append(elapsed)
    difference = float(np.abs(np.subtract(numbers["dqnet"], numbers["pysodmetrics"])).max())
    if not difference <= TOLERANCE:
        print(f"the numbers differ by {difference:.3g}, more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    middle = medians(seconds)
    print(f"{len(pairs)} maps of {SIDE} x {SIDE}, largest difference of {len(NAMES)} numbers {difference:.1e}")
    for name, values in seconds.items():
        print(
            f"{name:12} {middle[name]:9.3f} s {1000 * middle[name] / len(pairs):7.2f} ms a map, best {min(values):.3f}"
        )
    value = middle["pysodmetrics"] / middle["dqnet"]
    write_speed(
        "dqnet_metrics",
        {
            "ratios": [ratio("scoring of maps", "pysodmetrics", value, 8.0, "min")],
            "images": arguments.images,
            "side": SIDE,
            "seconds": seconds,
            "largest_difference": difference,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
