"""Label error and movement, in closed form and of uniform points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from p2p_loc.coarse import coarse_points
from p2p_loc.label_quality import label_error, label_statistics


def content(boxes: list[list[float]], true: list[list[float] | None], ids: list[int] | None = None) -> dict[str, Any]:
    rows = [
        {"id": i, "image_id": 1, "category_id": 1, "point": [0.0, 0.0], "bbox": box}
        | ({} if t is None else {"true_bbox": t})
        for i, box, t in zip(ids or range(len(boxes)), boxes, true, strict=True)
    ]
    return {"images": [{"id": 1, "width": 99, "height": 99}], "annotations": rows}


def test_error_is_in_sides_of_the_true_box() -> None:
    true = np.array([[0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 10.0, 20.0]])
    labels = np.array([[3.0, 0.0, 13.0, 20.0], [0.0, 8.0, 10.0, 28.0]])
    assert label_error(labels, true) == pytest.approx((0.3 + 0.4) / 2)
    true[1] = np.nan
    assert label_error(labels, true) == pytest.approx(0.3)
    assert label_error(labels[1:], true[1:]) is None


def test_uniform_points_begin_at_their_expectation() -> None:
    """Mean distance of a uniform point from the centre of a unit square: (sqrt 2 + asinh 1) / 6."""
    boxes = np.tile([5.0, 5.0, 8.0, 30.0], (20000, 1))
    points = coarse_points(boxes, "uniform", rng=np.random.RandomState(0))
    true = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    error = label_error(np.concatenate([points, points], 1), true)
    assert error == pytest.approx((np.sqrt(2) + np.arcsinh(1)) / 6, abs=0.005)


def test_statistics() -> None:
    true = [[10.0, 10.0, 10.0, 10.0], [40.0, 40.0, 10.0, 10.0], None, [70.0, 70.0, 10.0, 10.0]]
    first = content([[13.0, 10, 10, 10], [40.0, 44, 10, 10], [5.0, 5, 4, 4], [70.0, 70, 10, 10]], true)
    later = content([[11.0, 10, 10, 10], [40.0, 45, 10, 10], [5.0, 5, 4, 4]], true[:3])
    later["annotations"].reverse()
    found = label_statistics(first, later)
    assert found == {
        "objects": 3,
        "dropped": 1,
        "moved": pytest.approx(2 / 3),
        "movement": pytest.approx((2 + 1) / 3),
        "size": pytest.approx(8),
        "error": pytest.approx((0.1 + 0.5) / 2),
        "initial_error": pytest.approx((0.3 + 0.4) / 2),
        "improved": 0.5,
    }


def test_a_change_of_size_is_no_movement() -> None:
    first = content([[10.0, 10, 10, 10]], [None])
    found = label_statistics(first, content([[12.0, 12, 6, 6]], [None]))
    assert (found["moved"], found["movement"], found["size"]) == (0, 0, 6)
    assert found["error"] is found["initial_error"] is found["improved"] is None


def test_no_labels() -> None:
    first = content([[10.0, 10, 10, 10]], [[10.0, 10, 10, 10]])
    found = label_statistics(first, {**first, "annotations": []})
    assert (found["objects"], found["dropped"], found["moved"], found["error"]) == (0, 1, 0, None)
