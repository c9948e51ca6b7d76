"""Refinement of P2P-Loc's labels: 10,000, 100,000 and 1,000,000 points with 10 detections each, and a loop over images.

    python benchmarks/p2p_loc_refine.py [--loop 10000] [--repeat 3]

Images of 640 x 512 with 50 points of two classes; the detections of a point are spread around it. Seconds are of
:class:`p2p_loc.PointRefiner` from arrays to labels, a whole data set in one call. The loop does the work of the
authors' script in numpy, image by image, class by class and point by point; on its ``--loop`` points all labels must
agree to 1e-9, or nothing is written. The sides take turns.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from common import ratio, speed_parser, write_speed
from timing import alternate, medians

from p2p_loc.refiner import PointRefiner

POINTS_AN_IMAGE, DETECTIONS_A_POINT, CLASSES = 50, 10, 2
SIZES = (10_000, 100_000, 1_000_000)
SIDE = 16.0
TOLERANCE = 1e-9
SEED = 0

Scene = dict[str, np.ndarray]


def scene(count: int) -> Scene:
    """``count`` points, and ten times as many detections in the order of their images."""
    rng = np.random.default_rng(SEED)
    points = rng.uniform(0, (640, 512), (count, 2))
    classes = rng.integers(0, CLASSES, count)
    images = np.arange(count) // POINTS_AN_IMAGE
    owner = np.repeat(np.arange(count), DETECTIONS_A_POINT)
    centres = points[owner] + rng.normal(0, 6, (len(owner), 2))
    half = rng.uniform(4, 12, (len(owner), 2))
    return {
        "points": points,
        "boxes": np.concatenate([points - SIDE / 2, points + SIDE / 2], 1),
        "classes": classes,
        "images": images,
        "det_boxes": np.concatenate([centres - half, centres + half], 1),
        "det_scores": rng.uniform(0.05, 1, len(owner)),
        "det_classes": classes[owner],
        "det_images": images[owner],
    }


def ours(data: Scene) -> np.ndarray:
    """By the library."""
    names = ("points", "boxes", "classes", "det_boxes", "det_scores", "det_classes")
    places = {"images": data["images"], "det_images": data["det_images"]}
    return PointRefiner()(*(data[name] for name in names), **places)[0]


def loop(data: Scene, topk: int = 16, grow: float = 1.75) -> np.ndarray:
    """Image by image, class by class and point by point."""
    refined = data["boxes"].copy()
    starts = np.arange(0, len(refined), POINTS_AN_IMAGE)
    for image, start in enumerate(starts):
        rows: np.ndarray = np.arange(start, min(start + POINTS_AN_IMAGE, len(refined)))
        found = np.arange(rows[0] * DETECTIONS_A_POINT, (rows[-1] + 1) * DETECTIONS_A_POINT)
        assert data["images"][start] == data["det_images"][found[0]] == image
        for number in range(CLASSES):
            mine = rows[data["classes"][rows] == number]
            own = found[data["det_classes"][found] == number]
            if not len(mine) or not len(own):
                continue
            boxes, scores = data["det_boxes"][own], data["det_scores"][own]
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            owner = ((centres[:, None] - data["points"][mine]) ** 2).sum(2).argmin(1)
            for k, i in enumerate(mine):
                chosen = np.flatnonzero(owner == k)
                chosen = chosen[np.argsort(-scores[chosen], kind="stable")[:topk]]
                reach = np.abs(boxes[chosen].reshape(-1, 2, 2) - data["points"][i]).reshape(-1, 4)
                chosen = chosen[(reach < grow * SIDE).all(1)]
                if len(chosen):
                    mean = (scores[chosen, None] * boxes[chosen]).sum(0) / scores[chosen].sum()
                    refined[i, :2] = np.minimum(mean[:2], data["points"][i])
                    refined[i, 2:] = np.maximum(mean[2:], data["points"][i])
    return refined


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_p2p_loc_refine.json``; exit status 1 if labels differ."""
    arguments = speed_parser(__doc__, loop=10_000, repeat=3).parse_args(argv)  # --gpu changes nothing
    few = scene(arguments.loop)
    difference = float(np.abs(ours(few) - loop(few)).max())
    if not difference <= TOLERANCE:
        print(f"the labels differ by {difference:.3g}, more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    sides = {"loop": lambda: loop(few), "p2p_loc, as many": lambda: ours(few)}
    seconds = alternate(sides, arguments.repeat)
    for count in SIZES:
        data = scene(count)
        seconds |= alternate({f"{count}": lambda data=data: ours(data)}, arguments.repeat)
    middle = medians(seconds)
    each = {count: middle[f"{count}"] / count for count in SIZES}
    for count in SIZES:
        print(f"{count} points: {middle[f'{count}']:.3f} s, {1e6 * each[count]:.2f} us each")
    points = f"refinement of {arguments.loop} points, 10 detections each"
    content = {
        "ratios": [
            ratio(points, "a loop over images and points", middle["loop"] / middle["p2p_loc, as many"], 5.0, "min"),
            ratio("a point among 1,000,000", "a point among 100,000", each[SIZES[2]] / each[SIZES[1]], 2.0, "max"),
        ],
        "points_per_image": POINTS_AN_IMAGE,
        "detections_per_point": DETECTIONS_A_POINT,
        "loop_points": arguments.loop,
        "seconds": seconds,
        "largest_difference": difference,
    }
    write_speed("p2p_loc_refine", content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
