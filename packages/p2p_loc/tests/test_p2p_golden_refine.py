"""Refinement against the authors' script, from file to file and without clipping and rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from p2p_golden import close, load

from p2p_loc.annotations import Detections, to_xywh, to_xyxy
from p2p_loc.refiner import PointRefiner
from p2p_loc.relabel import refine_annotations

GOLDEN = load("refine")
VARIANTS: dict[str, dict[str, Any]] = {
    "mean_inc": {"mode": "mean"},
    "minmax": {"mode": "legacy_minmax", "include_point": False, "score_thr": 0.2},
    "center": {"mode": "legacy_center", "include_point": False, "topk": 5, "max_grow": 2.0, "num_per_gt": 3}
    | {"score_thr": 0.2},
    "wmean_noinc": {"include_point": False},
    "wmean_top3": {"topk": 3, "max_grow": 1.5, "score_thr": 0.2},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_boxes_of_a_whole_data_set(name: str) -> None:
    boxes, _ = PointRefiner(**VARIANTS[name])(
        GOLDEN["ann_point"],
        to_xyxy(GOLDEN["ann_bbox"]),
        GOLDEN["ann_cat"],
        to_xyxy(GOLDEN["det_bbox"]),
        GOLDEN["det_score"],
        GOLDEN["det_cat"],
        images=GOLDEN["ann_image"],
        det_images=GOLDEN["det_image"],
    )
    np.testing.assert_array_equal(GOLDEN["ann_id"], GOLDEN[f"{name}_id"])
    close(to_xywh(boxes), GOLDEN[f"{name}_bbox"], 1e-9)


@pytest.mark.parametrize("grow", [1.35, 1.5, 1.75, 2.0])
def test_from_file_to_file(grow: float) -> None:
    """Clipped, filtered, rounded; fully supervised objects get their true box."""
    width, height = GOLDEN["image_wh"].tolist()
    names = {"id": "ann_id", "image_id": "ann_image", "category_id": "ann_cat", "point": "ann_point"}
    names |= {"bbox": "ann_bbox", "true_bbox": "ann_true_bbox", "is_fully": "ann_is_fully"}
    columns = zip(*(GOLDEN[name].tolist() for name in names.values()))
    content = {
        "images": [{"id": i, "width": width, "height": height} for i in range(int(GOLDEN["num_images"]))],
        "annotations": [dict(zip(names, row)) for row in columns],
    }
    detections = Detections(GOLDEN["det_image"], to_xyxy(GOLDEN["det_bbox"]), GOLDEN["det_score"], GOLDEN["det_cat"])
    refined = refine_annotations(content, detections, PointRefiner(max_grow=grow))["annotations"]
    assert [row["id"] for row in refined] == GOLDEN[f"full_{grow}_id"].tolist()
    close([row["bbox"] for row in refined], GOLDEN[f"full_{grow}_bbox"], 1e-3)
