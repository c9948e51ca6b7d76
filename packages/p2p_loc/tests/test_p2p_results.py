"""Ground truth and result files: what is read, and what is refused, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from p2p_scenes import scene

from p2p_loc.location import evaluate_locations
from p2p_loc.location_curves import middle_pixels
from p2p_loc.results import flag_lines, read_results, read_truth
from vireo.errors import InputError

TRUTH: dict[str, Any] = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 7, "name": "person"}]}
GOOD: dict[str, Any] = {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}


def write(folder: Path, content: Any) -> Path:
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_boxes_points_and_both(tmp_path: Path) -> None:
    point = {key: value for key, value in GOOD.items() if key != "bbox"} | {"point": [10.25, 20.5]}
    path = write(tmp_path, [GOOD, point, {**GOOD, "image_id": 2, "point": [3, 4]}])
    found = read_results(path, TRUTH)
    assert middle_pixels(found.boxes)[:, :2].tolist() == [[2, 3.5], [10.25, 20.5], [3, 4]]
    assert found.image_ids.tolist() == [1, 1, 2]
    assert found.classes.tolist() == [7, 7, 7]
    path = write(tmp_path, [GOOD, {**GOOD, "point": [3, 4]}])
    assert read_results(path, TRUTH, boxes=True).boxes.tolist() == [[1, 2, 4, 6]] * 2


def test_points_of_boxes_have_the_same_numbers(tmp_path: Path) -> None:
    truth, found = scene(2, ties=False)
    boxes = found.coco()
    centres = middle_pixels(np.array([[*row["bbox"][:2], *np.add(row["bbox"][:2], row["bbox"][2:])] for row in boxes]))
    points = [
        {key: value for key, value in row.items() if key != "bbox"} | {"point": centre}
        for row, centre in zip(boxes, centres[:, :2].tolist())
    ]
    by_box, by_point = (
        evaluate_locations(truth, read_results(write(tmp_path, rows), truth)) for rows in (boxes, points)
    )
    assert by_box == by_point


def test_no_detections(tmp_path: Path) -> None:
    found = read_results(write(tmp_path, []), TRUTH)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"image_id": 3}, "image_id 3 is not listed"),
        ({"image_id": "a.jpg"}, "image_id 'a.jpg' is not listed"),
        ({"image_id": True}, "image_id True is not listed"),
        ({"category_id": 1}, "category_id 1 is not listed"),
        ({"image_id": None}, "image_id None is not listed"),
        ({"score": float("nan")}, "'score' is nan, no finite number"),
        ({"score": "0.5"}, "'score' is '0.5', no finite number"),
        ({"score": float("inf")}, "'score' is inf"),
        ({"bbox": [1, 2, 3]}, "not 4 finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "not 4 finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, "width or height is negative"),
        ({"point": [1, 2, 3]}, "not 2 finite numbers"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    path = write(tmp_path, [GOOD, {**GOOD, **change}])
    with pytest.raises(InputError) as caught:
        read_results(path, TRUTH)
    assert what in caught.value.what
    assert caught.value.where == f"{path}: record 1"


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox"])
def test_what_is_missing_is_named(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, [{name: value for name, value in GOOD.items() if name != key}])
    with pytest.raises(InputError, match=f"record 0: .*'{key}'"):
        read_results(path, TRUTH)


def test_the_box_metric_wants_boxes(tmp_path: Path) -> None:
    rows = [{"image_id": 1, "category_id": 7, "point": [1, 2], "score": 0.5}]
    with pytest.raises(InputError, match="'bbox' is missing"):
        read_results(write(tmp_path, rows), TRUTH, boxes=True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (json.dumps([GOOD] * 3)[:-9], "not valid JSON"),
        ("", "not valid JSON"),
        ({"images": []}, "no list of detections"),
        ([[1, 2]], "the record is no object"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: Any, what: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=what) as caught:
        read_results(path, TRUTH)
    assert caught.value.where.startswith(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path / "absent.json", TRUTH)


def test_truth_is_the_true_box(tmp_path: Path) -> None:
    row = {"id": 1, "image_id": 1, "category_id": 7}
    image = {"id": 1, "file_name": "a.png", "width": 50, "height": 50}
    content = {**TRUTH, "images": [image], "annotations": [{**row, "bbox": [0, 0, 16, 16], "true_bbox": [3, 3, 5, 9]}]}
    assert read_truth(write(tmp_path, content))["annotations"][0]["bbox"] == [3, 3, 5, 9]
    for label in ({}, {"bbox": [0, 0, 16, 16]}):  # the box of a point is no truth
        content["annotations"] = [{**row, "point": [5, 5], **label}]
        with pytest.raises(InputError, match="annotation 1: there is no box"):
            read_truth(write(tmp_path, content))


def test_what_becomes_of_flags_is_said() -> None:
    rows: list[dict[str, Any]] = [{"iscrowd": 1}, {"ignore": True}, {"iscrowd": 1, "uncertain": 1}, {}]
    assert flag_lines({"annotations": rows}, ("iscrowd",)) == [
        "neutral objects: 2 of 4, flagged iscrowd",
        "counted like all others: 1 flagged ignore, 1 flagged uncertain",
    ]
    assert flag_lines({"annotations": rows}, ("iscrowd", "ignore", "uncertain")) == [
        "neutral objects: 3 of 4, flagged iscrowd or ignore or uncertain"
    ]
