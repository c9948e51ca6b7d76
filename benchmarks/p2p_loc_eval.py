"""The location metric of P2P-Loc against a direct evaluation, condition by condition: 2,000 images from arrays to AP.

    python benchmarks/p2p_loc_eval.py [--images 2000] [--direct 200] [--repeat 3]

Each image has 60 objects and 300 detections of one class, four in five of these near an object; scores without ties. 21
conditions: 3 distances and 7 ranges of sizes; all detections count. The direct side has the structure of the authors'
evaluation: for every condition and image a matrix of distances and a greedy matching over the detections, then one
ranking of all images; in numpy, and without a search through equal scores, of which there are none. It evaluates
``--direct`` images, and its time is scaled to all of them, as it looks at each image for itself. On these images every
AP and AR must agree to 1e-9, or nothing is written. The sides take turns; ours is timed on all images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from common import ratio, speed_parser, write_speed
from timing import medians

from p2p_loc.annotations import Detections, to_xyxy
from p2p_loc.location import TINY_RANGES, evaluate_locations

OBJECTS, DETECTIONS = 60, 300
TAUS = (0.5, 1.0, 2.0)
SIDE = (1280, 720)
TOLERANCE = 1e-9
SEED = 0

Scene = tuple[dict[str, Any], Detections]


def scene(images: int) -> Scene:
    """Objects of 4 to 48 pixels, spread evenly in their logarithm, on images of 1280 x 720, and detections."""
    rng = np.random.default_rng(SEED)
    sides = np.exp(rng.uniform(np.log(4), np.log(48), (images, OBJECTS, 2)))
    corners = rng.uniform(0, 1, sides.shape) * (np.array(SIDE) - sides)
    chosen = rng.integers(0, OBJECTS, (images, DETECTIONS))
    size = np.take_along_axis(sides, chosen[..., None], 1)
    near = np.take_along_axis(corners, chosen[..., None], 1) + rng.normal(0, 0.7, size.shape) * size
    anywhere = rng.uniform(0, 1, size.shape) * np.array(SIDE)
    found = np.where(rng.random((images, DETECTIONS, 1)) < 0.8, near, anywhere)
    rows = zip(
        np.repeat(np.arange(images), OBJECTS).tolist(), np.concatenate([corners, sides], 2).reshape(-1, 4).tolist()
    )
    truth = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": k, "image_id": i, "category_id": 1, "bbox": box} for k, (i, box) in enumerate(rows)],
    }
    scores = rng.permutation(images * DETECTIONS) / (images * DETECTIONS)
    boxes = to_xyxy(np.concatenate([found, size], 2).reshape(-1, 4))
    ids = np.repeat(np.arange(images), DETECTIONS)
    return truth, Detections(ids, boxes, scores, np.ones(len(ids), np.int64))


def ours(data: Scene) -> dict[str, float]:
    """By the library."""
    metrics = evaluate_locations(*data, taus=TAUS, max_dets=[DETECTIONS])
    return {name: value for name, value in metrics.items() if name != "per_class"}


def direct(data: Scene) -> dict[str, float]:
    """Condition by condition and image by image."""
    truth, detections = data
    middle = np.concatenate([detections.boxes[:, :2] + (detections.boxes[:, 2:] - detections.boxes[:, :2] - 1) / 2], 1)
    boxes = np.array([row["bbox"] for row in truth["annotations"]])
    given = np.concatenate([boxes[:, :2] + (boxes[:, 2:] - 1) / 2, boxes[:, 2:]], 1).astype(np.float32)
    images = []
    owner = np.array([row["image_id"] for row in truth["annotations"]])
    for image in truth["images"]:
        mine = np.flatnonzero(detections.image_ids == image["id"])
        mine = mine[np.argsort(-detections.scores[mine], kind="stable")][:DETECTIONS]
        images.append((middle[mine].astype(np.float32), detections.scores[mine], given[owner == image["id"]]))
    metrics: dict[str, float] = {}
    for name, (least, greatest) in TINY_RANGES.items():
        for tau in TAUS:
            parts = [_direct_image(*image, least, greatest, np.float32(1 / (1 + tau * tau))) for image in images]
            right, kept, scores = (np.concatenate([part[k] for part in parts]) for k in range(3))
            ap, ar = _direct_curve(right[kept], scores[kept], sum(part[3] for part in parts))
            label = f"{'' if name == 'all' else '_' + name}@{tau:g}"
            metrics |= {f"AP{label}": ap, f"AR{label}": ar}
    return metrics


def _direct_image(
    points: np.ndarray, scores: np.ndarray, objects: np.ndarray, least: float, greatest: float, enough: np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Which detections are right, which count, their scores, and how many objects there are to find."""
    size = np.sqrt(objects[:, 2] * objects[:, 3])
    inside = (size >= least) & (size < greatest)
    offset = (points[:, None] - objects[None, :, :2]) / objects[None, :, 2:]
    nearness = 1 / (1 + (offset**2).sum(2))
    wanted, others = nearness[:, inside], nearness[:, ~inside]
    right = np.zeros(len(points), np.bool_)
    if wanted.shape[1]:
        for row in range(len(points)):
            best = wanted[row].argmax()
            if wanted[row, best] >= enough:
                right[row] = True
                wanted[:, best] = -1  # taken
    neutral = ~right & (others.max(1) >= enough) if others.shape[1] else np.zeros(len(points), np.bool_)
    return right, ~neutral, scores, int(inside.sum())


def _direct_curve(right: np.ndarray, scores: np.ndarray, objects: int) -> tuple[float, float]:
    """Average precision and recall."""
    if not len(scores):
        return float(objects == 0), float(objects == 0)
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    recall, first = np.unique(hits / (objects + 1e-12), return_index=True)
    precision = (hits / np.arange(1, len(hits) + 1))[first]
    place = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.append(precision, 0)[place].mean()), float(recall[-1])


def timed(side: Callable[[Scene], dict[str, float]], data: Scene) -> tuple[float, dict[str, float]]:
    """Seconds and numbers of one evaluation."""
    start = time.perf_counter()
    numbers = side(data)
    return time.perf_counter() - start, numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_p2p_loc_eval.json``; exit status 1 if the numbers differ."""
    parser = speed_parser(__doc__, images=2000, direct=200, repeat=3)  # --gpu changes nothing
    arguments = parser.parse_args(argv)
    few, many = scene(arguments.direct), scene(arguments.images)
    timed(ours, few)
    seconds: dict[str, list[float]] = {"direct": [], "p2p_loc, as many": [], "p2p_loc": []}
    for _ in range(arguments.repeat):
        elapsed, expected = timed(direct, few)
        seconds["direct"].append(elapsed)
        elapsed, numbers = timed(ours, few)
        seconds["p2p_loc, as many"].append(elapsed)
        seconds["p2p_loc"].append(timed(ours, many)[0])
    difference = max(abs(numbers[name] - expected[name]) for name in expected)
    if numbers.keys() != expected.keys() or not difference <= TOLERANCE:
        print(f"the numbers differ by {difference:.3g}, more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    middle = medians(seconds)
    scaled = middle["direct"] * arguments.images / arguments.direct
    print(f"{len(expected)} numbers, largest difference {difference:.1e}")
    print(
        f"direct: {middle['direct']:.2f} s for {arguments.direct} images, scaled to {arguments.images}: {scaled:.1f} s"
    )
    print(f"p2p_loc: {middle['p2p_loc, as many']:.3f} s for as many, {middle['p2p_loc']:.2f} s for {arguments.images}")
    name = f"location metric of {arguments.images} images, 21 conditions"
    against = (
        "a direct evaluation by condition, scaled" if arguments.direct < arguments.images else "a direct evaluation"
    )
    content = {
        "ratios": [ratio(name, against, scaled / middle["p2p_loc"], 20.0, "min")],
        "images": {"p2p_loc": arguments.images, "direct": arguments.direct},
        "objects_per_image": OBJECTS,
        "detections_per_image": DETECTIONS,
        "conditions": len(TAUS) * len(TINY_RANGES),
        "seconds": seconds,
        "largest_difference": difference,
    }
    write_speed("p2p_loc_eval", content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
