"""The location metric: against a plain version, and where its definition is delicate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from p2p_scenes import plain_ap, plain_match, scene

from p2p_loc.annotations import Detections, to_xyxy
from p2p_loc.location import TINY_RANGES, LocationEvaluator, crowded_images, evaluate_locations
from p2p_loc.matching import match_points, score_groups
from vireo.errors import InputError

PERFECT = 100 / 101  # AP when everything is found: a recall of 1 is missed by 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_matching_is_that_of_a_plain_search(seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    n, m, k = rng.integers(0, 12), rng.integers(0, 8), rng.integers(0, 4)
    points = rng.integers(0, 30, (n, 2)).astype(np.float32)  # whole numbers: many distances are equal
    boxes = np.concatenate([rng.integers(0, 30, (m + k, 2)), rng.integers(4, 12, (m + k, 2))], 1).astype(np.float32)
    scores = np.sort(np.round(rng.random(n), 1))[::-1]
    expected = plain_match(points, scores, boxes[:m], boxes[m:], tau)
    matched, neutral = match_points(points, scores, boxes[:m], boxes[m:], tau)
    assert (matched.tolist(), neutral.tolist()) == expected


@pytest.mark.parametrize("seed", range(4))
def test_metric_is_that_of_a_plain_evaluation(seed: int) -> None:
    truth, detections = scene(seed)
    taus, most = [0.25, 0.5, 1, 2], [3, 7, 100]  # 84 conditions: more than one number of bits has
    metrics = evaluate_locations(truth, detections, taus=taus, max_dets=most)
    for category in truth["categories"]:
        row = metrics["per_class"][category["name"]]
        for name, size in TINY_RANGES.items():
            for tau in taus:
                for count in most:
                    key = f"{'' if name == 'all' else '_' + name}@{tau:g}/{count}"
                    expected = plain_ap(truth, detections, category["id"], tau, size, count)
                    assert (row[f"AP{key}"], row[f"AR{key}"]) == pytest.approx(expected, abs=1e-12)
    names = [name for name in metrics if name != "per_class"]
    means = np.mean([[row[name] for name in names] for row in metrics["per_class"].values()], axis=0)
    assert [metrics[name] for name in names] == pytest.approx(means.tolist())


def test_equal_scores_are_matched_by_distance_and_others_by_score() -> None:
    boxes = [[10, 10, 10, 10], [14, 10, 10, 10]]
    assert match_points([[12.5, 10], [13.9, 10]], [0.9, 0.9], boxes, [], 1.0)[0].tolist() == [0, 1]
    assert match_points([[12.5, 10], [13.9, 10]], [0.9, 0.8], boxes, [], 1.0)[0].tolist() == [1, 0]
    assert match_points([[13.9, 10], [12.5, 10]], [0.8, 0.9], boxes, [], 1.0)[0].tolist() == [0, 1]  # any order


def test_scores_that_differ_by_little_are_one_group_up_to_the_distance_from_its_first() -> None:
    scores = 0.5 - np.arange(8) * 4e-9  # each is near the one before
    assert score_groups(scores, np.zeros(8)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert score_groups(np.array([0.5, 0.5, 0.5]), np.array([1, 2, 2])).tolist() == [0, 1, 1]


def test_a_point_at_the_very_distance_is_matched() -> None:
    for tau in (0.25, 0.5, 1.0, 2.0):
        edge = [[10 + 8 * tau, 10]]
        assert match_points(edge, [1.0], [[10, 10, 8, 4]], [], tau)[0].tolist() == [0]
        assert match_points(edge, [1.0], [[10, 10, 7.99, 4]], [], tau)[0].tolist() == [-1]


def test_a_cut_inside_equal_scores_leaves_the_rest_out() -> None:
    """The better placed of two equal detections is beyond the cut: the first takes the object."""
    truth = one_class([[0, [10, 10, 11, 11]]])
    found = detections([[0, [14, 10, 11, 11], 0.5], [0, [10, 10, 11, 11], 0.5]])
    metrics = evaluate_locations(truth, found, max_dets=[1, 2], taus=[0.25, 1])
    assert metrics["AR@1/1"] == pytest.approx(1)
    assert metrics["AR@0.25/1"] == 0
    assert metrics["AR@0.25/2"] == pytest.approx(1)


def test_flags_that_are_not_honoured_count_as_objects() -> None:
    truth = one_class([[0, [10, 10, 11, 11]], [0, [60, 60, 11, 11], {"ignore": True}]])
    found = detections([[0, [60, 60, 11, 11], 0.9], [0, [10, 10, 11, 11], 0.8], [0, [61, 60, 11, 11], 0.7]])
    official, documented = (
        evaluate_locations(truth, found, ignore_flags=flags) for flags in (("iscrowd",), ("iscrowd", "ignore"))
    )
    assert official["AP@1"] == documented["AP@1"] == pytest.approx(PERFECT)
    alone = found.boxes[1:2], found.scores[1:2]
    only = Detections(np.zeros(1, int), *alone, np.ones(1, int))
    assert evaluate_locations(truth, only)["AR@1"] == pytest.approx(0.5)
    assert evaluate_locations(truth, only, ignore_flags=("ignore",))["AR@1"] == pytest.approx(1)


def test_all_objects_neutral_and_nothing_detected() -> None:
    truth = one_class([[0, [10, 10, 11, 11], {"iscrowd": 1}]])
    nothing, beside = detections([]), detections([[0, [80, 80, 11, 11], 0.9]])
    absorbed = detections([[0, [10, 10, 11, 11], 0.9], [0, [12, 10, 11, 11], 0.8]])
    assert evaluate_locations(truth, nothing)["AP@1"] == 1  # the authors' rule
    assert evaluate_locations(truth, absorbed)["AP@1"] == 1  # a neutral object takes in any number
    assert evaluate_locations(truth, beside)["AP@1"] == evaluate_locations(truth, beside)["AR@1"] == 0
    for found in (nothing, absorbed, beside):
        assert evaluate_locations(truth, found, without_objects="skip")["AP@1"] == -1
    seen = one_class([[0, [10, 10, 11, 11]]])
    assert evaluate_locations(seen, nothing)["AP@1"] == evaluate_locations(seen, nothing)["AR@1"] == 0


def test_classes_without_objects_are_left_out_of_the_mean_if_asked() -> None:
    truth = one_class([[0, [10, 10, 11, 11]]])
    truth["categories"].append({"id": 2, "name": "absent"})
    found = detections([[0, [10, 10, 11, 11], 0.9]])
    found = Detections(np.zeros(2, int), np.repeat(found.boxes, 2, 0), np.array([0.9, 0.8]), np.array([1, 2]))
    assert evaluate_locations(truth, found)["AP@1"] == pytest.approx(PERFECT / 2)
    assert evaluate_locations(truth, found, without_objects="skip")["AP@1"] == pytest.approx(PERFECT)


def test_second_detections_of_an_object_can_be_neutral() -> None:
    truth = one_class([[0, [10, 10, 11, 11]], [0, [60, 60, 11, 11]]])
    found = detections([[0, [10, 10, 11, 11], 0.9], [0, [12, 10, 11, 11], 0.8], [0, [60, 60, 11, 11], 0.7]])
    assert evaluate_locations(truth, found)["AP@1"] < 0.9
    assert evaluate_locations(truth, found, multi_match_neutral=True)["AP@1"] == pytest.approx(PERFECT)
    narrow = evaluate_locations(truth, found, multi_match_neutral=True, multi_match_tau=0.1)
    assert narrow["AP@1"] == evaluate_locations(truth, found)["AP@1"]


def test_batches_of_tensors_give_the_numbers_of_the_whole_set() -> None:
    truth, found = scene(7)
    numbers = {category["id"]: k for k, category in enumerate(truth["categories"])}
    evaluator = LocationEvaluator()
    for image in truth["images"]:
        rows = [row for row in truth["annotations"] if row["image_id"] == image["id"]]
        mine = found.image_ids == image["id"]
        prediction = {
            "boxes": torch.from_numpy(found.boxes[mine]),
            "scores": torch.from_numpy(found.scores[mine]),
            "labels": torch.tensor([numbers[c] for c in found.classes[mine].tolist()], dtype=torch.int64),
        }
        target = {
            "image_id": image["id"],
            "boxes": torch.from_numpy(to_xyxy([row["bbox"] for row in rows])),
            "labels": torch.tensor([numbers[row["category_id"]] for row in rows], dtype=torch.int64),
            "iscrowd": torch.tensor([bool(row["iscrowd"]) for row in rows]),
        }
        evaluator.update([prediction], [target])
    names = [category["name"] for category in truth["categories"]]
    assert evaluator.compute(names) == LocationEvaluator().evaluate(truth, found)
    assert list(evaluator.compute()["per_class"]) == ["0", "1"]


def test_the_order_of_files_does_not_matter() -> None:
    truth, found = scene(3, ties=False)
    order = np.random.default_rng(0).permutation(len(found))
    shuffled = Detections(*(getattr(found, name)[order] for name in ("image_ids", "boxes", "scores", "classes")))
    other = {**truth, "images": truth["images"][::-1], "annotations": truth["annotations"][::-1]}
    assert evaluate_locations(other, shuffled) == evaluate_locations(truth, found)


def test_images_with_more_objects_than_detections_that_count() -> None:
    truth = one_class([[i, [10, 10, 5, 5]] for i in (0, 1, 1, 1)])
    assert crowded_images(truth, 2) == [1]
    assert crowded_images(truth, 3) == []


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"taus": []}, "taus"),
        ({"taus": [1, 1]}, "taus"),
        ({"taus": [0.5, -1]}, "taus"),
        ({"max_dets": 0}, "max_dets"),
        ({"size_ranges": {"all": (5, 5)}}, "size_ranges"),
        ({"without_objects": "nan"}, "without_objects"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        LocationEvaluator(**options)
    assert caught.value.where == where


def test_detections_of_something_else_are_refused() -> None:
    truth = one_class([[0, [10, 10, 11, 11]]])
    with pytest.raises(InputError, match="no image that is listed, the first of image 9"):
        evaluate_locations(truth, detections([[9, [10, 10, 11, 11], 0.9]]))
    found = detections([[0, [10, 10, 11, 11], 0.9]])
    other = Detections(found.image_ids, found.boxes, found.scores, found.classes + 1)
    with pytest.raises(InputError, match="no category that is listed"):
        evaluate_locations(truth, other)


def one_class(rows: list[list[Any]]) -> dict[str, Any]:
    """Rows of image, box xywh and perhaps flags."""
    annotations = [
        {"id": k, "image_id": image, "category_id": 1, "bbox": box, **(flags[0] if flags else {})}
        for k, (image, box, *flags) in enumerate(rows)
    ]
    images = [{"id": i} for i in sorted({row[0] for row in rows})]
    return {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": annotations}


def detections(rows: list[list[Any]]) -> Detections:
    """Rows of image, box xywh and score."""
    return Detections.from_coco([{"image_id": i, "category_id": 1, "bbox": b, "score": s} for i, b, s in rows])
