"""Matching and both metrics against the numbers of the authors' code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from p2p_golden import close, load

from p2p_loc.annotations import Detections, to_xyxy
from p2p_loc.box_eval import BOX_IGNORE_FLAGS, evaluate_boxes
from p2p_loc.location import TINY_RANGES, LocationEvaluator
from p2p_loc.location_curves import Condition, Objects, middle_pixels
from p2p_loc.matching import match_points

TOLERANCE = 1e-6


@pytest.mark.parametrize("multi", [0, 1])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("number", range(4))
def test_matching(number: int, tau: float, multi: int) -> None:
    golden = load("loc_match")
    dets, scores, gts, ignore = (golden[f"s{number}_{name}"] for name in ("dets", "scores", "gts", "ignore"))
    options: dict[str, Any] = (
        {"multi_match_neutral": True, "multi_match_tau": 2.5 if tau == 2 else None} if multi else {}
    )
    matched, neutral = match_points(dets, scores, gts, ignore, tau, **options)
    np.testing.assert_array_equal(matched, golden[f"s{number}_M_{tau}_{multi}"])
    np.testing.assert_array_equal(neutral, golden[f"s{number}_ID_{tau}_{multi}"])


def scene(golden: dict[str, np.ndarray]) -> tuple[dict[str, Any], Detections]:
    columns = zip(
        *(golden[f"gt_{name}"].tolist() for name in ("id", "image", "cat", "bbox", "iscrowd", "ignore", "uncertain"))
    )
    names = ("id", "image_id", "category_id", "bbox", "iscrowd", "ignore", "uncertain")
    truth = {
        "images": [{"id": i} for i in range(int(golden["num_images"]))],
        "categories": [{"id": i, "name": f"class {i}"} for i in golden["categories"].tolist()],
        "annotations": [dict(zip(names, row)) for row in columns],
    }
    boxes = to_xyxy(golden["det_bbox"])
    return truth, Detections(golden["det_image"], boxes, golden["det_score"], golden["det_cat"])


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("", {}),
        ("_mm", {"multi_match_neutral": True}),
        ("_ignore_uncertain", {"ignore_flags": ("iscrowd", "ignore", "uncertain")}),
    ],
)
@pytest.mark.parametrize("case", ["loc_eval", "loc_eval_maxdets"])
def test_location_metric(case: str, suffix: str, options: dict[str, Any]) -> None:
    golden = load(case)
    truth, detections = scene(golden)
    taus, most = golden["matchThs"].tolist(), golden["maxDets"].tolist()
    evaluator = LocationEvaluator(taus=taus, max_dets=most, **options)
    close(list(TINY_RANGES.values()), golden["size_ranges"], 0)
    sizes = list(TINY_RANGES)
    order = [
        evaluator.conditions.index(Condition(taus[t], sizes[s], most[m]))
        for t, s, m in zip(golden["match_th_idx"], golden["size_idx"], golden["maxdets_idx"])
    ]
    found = Objects.from_coco(truth["annotations"], evaluator.ignore_flags)
    curves = list(evaluator.curves(found, detections, golden["categories"].tolist()))
    curves = [[of_class[k] for k in order] for of_class in curves]
    close([[c.average_precision for c in of_class] for of_class in curves], golden[f"AP{suffix}"], TOLERANCE)
    close([[c.best_recall for c in of_class] for of_class in curves], golden[f"AR{suffix}"], TOLERANCE)
    close(middle_pixels(detections.boxes)[:, :2], golden["det_point"], 0, rtol=TOLERANCE)
    for c, of_class in enumerate(curves):
        for k in range(3 if not suffix else 0):
            close(of_class[k].recall, golden[f"recall_c{c}_{k}"], TOLERANCE)
            close(of_class[k].precision, golden[f"precision_c{c}_{k}"], TOLERANCE)
    means = evaluator.evaluate(truth, detections)
    names = [
        f"AP{'' if s == 'all' else '_' + s}@{t:g}" + (f"/{m}" if len(most) > 1 else "")
        for t, s, m in (evaluator.conditions[k] for k in order)
    ]
    close([means[name] for name in names], golden[f"AP{suffix}"].mean(0), TOLERANCE)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("", {}),
        ("_iod2", {"ignore_iod": "raised"}),
        ("_plain", {"ignore_iod": "off", "ignore_flags": ("iscrowd",)}),
    ],
)
def test_tiny_box_metric(suffix: str, options: dict[str, Any]) -> None:
    golden = load("tiny_box_eval")
    metrics = evaluate_boxes(*scene(golden), **options)
    assert BOX_IGNORE_FLAGS == ("iscrowd", "ignore", "uncertain")
    for kind in ("AP", "AR"):
        names = [[f"{kind}{iou}{'' if s == 'all' else '_' + s}" for s in TINY_RANGES] for iou in (25, 50, 75)]
        close([[metrics[name] for name in row] for row in names], golden[f"{kind}{suffix}"], TOLERANCE)
