"""Refinement against the authors' script, from file to file and without clipping and rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from p2p_golden import close, load

from p2p_loc.annotations import to_xywh, to_xyxy
from p2p_loc.refiner import PointRefiner

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
