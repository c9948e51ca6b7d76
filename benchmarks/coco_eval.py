"""COCO box evaluation against pycocotools: 1,000 images x 80 classes, from the same prediction tensors to the numbers.

    python benchmarks/coco_eval.py [--repetitions 5]

Each side starts from what a detector leaves behind (a dict of tensors per image) and a COCO json dict, so conversion is
part of its time: ours inside `evaluate_coco`, pycocotools' into the usual list of result dicts. The sides take turns;
the ratio is that of the medians. Every number must agree to 1e-9, or nothing is written.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from common import ratio, speed_parser, write_speed
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from timing import medians

from vireo.evaluation import evaluate_coco

KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
IMAGES, CLASSES, OBJECTS, DETECTIONS = 1000, 80, 7, 100
HEIGHT, WIDTH = 480, 640
SEED = 0
TOLERANCE = 1e-9


def scene(images: int) -> tuple[dict[str, list], list[dict[str, Any]]]:
    """COCO's crowdedness: about 7 objects an image, 2 % of them crowds, and 50 to 100 detections around them."""
    rng = np.random.default_rng(SEED)
    annotations: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        n, m = 1 + rng.poisson(OBJECTS - 1), int(rng.integers(DETECTIONS // 2, DETECTIONS + 1))
        size = np.exp(rng.uniform(np.log(8), np.log(400), (n, 2)))
        corner = rng.random((n, 2)) * (np.array([WIDTH, HEIGHT]) - size)
        labels = rng.integers(0, CLASSES, n)
        for k in range(n):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(labels[k]) + 1,
                    "bbox": [*corner[k].tolist(), *size[k].tolist()],
                    "area": float(0.6 * size[k].prod()),
                    "iscrowd": int(rng.random() < 0.02),
                }
            )
        source = rng.integers(0, n, m)
        boxes = np.concatenate([corner, corner + size], axis=1)[source]
        boxes += rng.normal(0, 0.1, (m, 4)) * np.tile(size[source], 2)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        predictions.append(
            {
                "image_id": image_id,
                "boxes": torch.tensor(boxes, dtype=torch.float32),
                "scores": torch.tensor(rng.random(m), dtype=torch.float32),
                "labels": torch.tensor(np.where(rng.random(m) < 0.5, labels[source], rng.integers(0, CLASSES, m))),
            }
        )
    ground_truth: dict[str, list] = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "categories": [{"id": c + 1, "name": f"class {c}"} for c in range(CLASSES)],
        "annotations": annotations,
    }
    return ground_truth, predictions


def with_vireo(ground_truth: dict[str, list], predictions: list[dict[str, Any]]) -> list[float]:
    """The twelve numbers and the AP of each class."""
    metrics = evaluate_coco(ground_truth, predictions)
    return [*(metrics[key] for key in KEYS), *metrics["per_class"].values()]


def with_pycocotools(ground_truth: dict[str, list], predictions: list[dict[str, Any]]) -> list[float]:
    """The same by the reference implementation."""
    results = []
    for prediction in predictions:
        boxes = prediction["boxes"].double()
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, label in zip(boxes.tolist(), prediction["scores"].tolist(), prediction["labels"].tolist()):
            results.append({"image_id": prediction["image_id"], "category_id": label + 1, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        target = COCO()
        target.dataset = ground_truth
        target.createIndex()
        evaluator = COCOeval(target, target.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = np.moveaxis(evaluator.eval["precision"][:, :, :, 0, -1], 2, 0)
    return [*evaluator.stats.tolist(), *(float(p[p > -1].mean()) if (p > -1).any() else -1.0 for p in precision)]


def timed(side: Callable[..., list[float]], ground_truth: dict, predictions: list) -> tuple[float, list[float]]:
    """Seconds and numbers of one evaluation; the reference writes into its ground truth, so each call has a copy."""
    own = copy.deepcopy(ground_truth)
    gc.collect()
    start = time.perf_counter()
    numbers = side(own, predictions)
    return time.perf_counter() - start, numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_coco_eval.json``; exit status 1 if the numbers differ."""
    repetitions = speed_parser(__doc__, repetitions=5).parse_args(argv).repetitions  # --gpu changes nothing
    torch.set_num_threads(1)
    sides = {"vireo": with_vireo, "pycocotools": with_pycocotools}
    warm_up = scene(50)
    for side in sides.values():
        timed(side, *warm_up)
    ground_truth, predictions = scene(IMAGES)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    numbers: dict[str, list[float]] = {}
    for _ in range(repetitions):
        for name, side in sides.items():
            elapsed, numbers[name] = timed(side, ground_truth, predictions)
            seconds[name].append(elapsed)
    difference = float(np.abs(np.subtract(numbers["vireo"], numbers["pycocotools"])).max())
    if not difference <= TOLERANCE:
        print(f"the numbers differ by {difference:.3g}, more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    middle = medians(seconds)
    detections = sum(len(p["scores"]) for p in predictions)
    print(f"{IMAGES} images, {CLASSES} classes, {len(ground_truth['annotations'])} objects, {detections} detections")
    print(f"{'':12} {'median s':>9} {'min':>7} {'max':>7}")
    for name, values in seconds.items():
        print(f"{name:12} {middle[name]:9.3f} {min(values):7.3f} {max(values):7.3f}")
    print(f"largest difference of {len(numbers['vireo'])} numbers {difference:.1e}")
    value = middle["pycocotools"] / middle["vireo"]
    write_speed(
        "coco_eval",
        {
            "ratios": [ratio("COCO evaluation", "pycocotools", value, 5.0, "min")],
            "images": IMAGES,
            "classes": CLASSES,
            "objects": len(ground_truth["annotations"]),
            "detections": detections,
            "seconds": seconds,
            "largest_difference": difference,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
