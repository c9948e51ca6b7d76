"""TinyPerson's box metric: COCO's where nothing is ignored, and its own rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from p2p_scenes import scene

from p2p_loc.annotations import Detections
from p2p_loc.box_eval import Iod, evaluate_boxes
from vireo.errors import InputError
from vireo.evaluation import evaluate_coco


@pytest.mark.parametrize("seed", range(3))
def test_without_its_own_rules_it_is_the_metric_of_coco(seed: int) -> None:
    truth, found = scene(seed, dets=60, ties=False)  # below COCO's 100 detections for an image and class
    ids = {category["id"]: k for k, category in enumerate(truth["categories"])}
    predictions = []
    for image in truth["images"]:
        mine = found.image_ids == image["id"]
        labels = np.array([ids[c] for c in found.classes[mine].tolist()], np.int64)
        row = {"image_id": image["id"], "boxes": found.boxes[mine], "scores": found.scores[mine], "labels": labels}
        predictions.append(row)
    expected = evaluate_coco(truth, predictions)
    sizes = {"all": (0, 1e5), "s": (0, 32), "m": (32, 96)}
    ious = np.linspace(0.5, 0.95, 10).tolist()
    ours = evaluate_boxes(
        truth, found, ious=ious, size_ranges=sizes, max_dets=100, ignore_flags=("iscrowd",), ignore_iod="off"
    )
    assert ours["AP50"] == pytest.approx(expected["AP50"], abs=1e-9)
    assert ours["AP75"] == pytest.approx(expected["AP75"], abs=1e-9)
    for ending, name in (("", "AP"), ("_s", "APs"), ("_m", "APm")):
        mean = np.mean([ours[f"AP{100 * iou:g}{ending}"] for iou in ious])
        assert mean == pytest.approx(expected[name], abs=1e-9)


def test_a_detection_inside_an_ignored_region_is_neutral() -> None:
    row = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {**row, "id": 1, "bbox": [5, 5, 10, 10]},
            {**row, "id": 2, "bbox": [30, 30, 60, 60], "ignore": 1},
        ],
    }
    inside = [{**row, "bbox": [40 + 10 * k, 40, 10, 10], "score": 0.9} for k in range(3)]
    across = [{**row, "bbox": [26, 40, 10, 10], "score": 0.9}]  # 0.6 of it inside: between 0.5 and 2 t / (1 + t)
    hit = [{**row, "bbox": [5, 5, 10, 10], "score": 0.5}]
    cases: tuple[tuple[list[dict[str, Any]], Iod, float], ...] = (
        (inside, "iou", 1),
        (inside, "raised", 1),
        (inside, "off", 0.25),
        (across, "iou", 1),
        (across, "raised", 0.5),
        (across, "off", 0.5),
    )
    for rows, iod, expected in cases:
        metrics = evaluate_boxes(truth, Detections.from_coco(rows + hit), ignore_iod=iod)
        assert metrics["AP50"] == pytest.approx(expected), iod
    assert metrics["AP50_tiny2"] == pytest.approx(0.5)
    assert metrics["AP50_small"] == metrics["AR50_small"] == -1  # no such object


def test_an_unknown_rule_is_refused() -> None:
    truth, found = scene(0)
    with pytest.raises(InputError, match="'iof' is unknown"):
        evaluate_boxes(truth, found, ignore_iod="iof")  # type: ignore[arg-type]
