"""Refinement of points: rules one by one, random cases against a plain loop, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from p2p_golden import close

import p2p_loc.refiner as module
from p2p_loc import Detections
from p2p_loc.refiner import PointRefiner
from p2p_loc.relabel import refine_annotations
from vireo.errors import InputError


def box(x: float, y: float, side: float = 8.0) -> list[float]:
    """A square around a point, xyxy."""
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def refine(points: Any, detections: Any, scores: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points of one image and class with boxes of 16 pixels."""
    count = len(detections)
    first = np.array([box(x, y, 16) for x, y in points])
    return PointRefiner(**options)(points, first, [1] * len(points), detections, scores, [1] * count)


def test_weighted_mean_extended_to_the_point() -> None:
    detections = [box(20, 20), box(24, 20)]
    boxes, moved = refine([[15.0, 20.0]], detections, [0.9, 0.3])
    close(boxes, [[15, 16, 25, 24]], 1e-12)  # the mean is 17..25
    assert moved.tolist() == [True]
    boxes, _ = refine([[15.0, 20.0]], detections, [0.9, 0.3], include_point=False)
    close(boxes, [[17, 16, 25, 24]], 1e-12)
    boxes, _ = refine([[15.0, 20.0]], detections, [0.9, 0.3], include_point=False, mode="mean")
    close(boxes, [[18, 16, 26, 24]], 1e-12)


def test_the_label_keeps_its_size_as_a_point() -> None:
    boxes, _ = refine([[15.0, 20.0]], [box(20, 22)], [0.9], label="point")
    close(boxes, [box(19.5, 22, 16)], 1e-12)  # the box is 15..24 with the point


def test_detections_go_to_the_nearest_point_and_the_first_at_ties() -> None:
    boxes, moved = refine([[10.0, 10.0], [20.0, 10.0]], [box(15, 10), box(19, 10)], [0.5, 0.5], include_point=False)
    close(boxes, [box(15, 10), box(19, 10)], 1e-12)
    assert moved.all()


def test_what_is_kept_of_a_point() -> None:
    detections = [box(12, 10), box(14, 10), box(10, 10)]
    first = {"include_point": False, "mode": "mean"}
    close(refine([[10.0, 10.0]], detections, [0.5, 0.5, 0.5], topk=1, **first)[0], [box(12, 10)], 1e-12)
    close(refine([[10.0, 10.0]], detections, [0.1, 0.5, 0.2], score_thr=0.2, **first)[0], [box(14, 10)], 1e-12)
    close(refine([[10.0, 10.0]], detections, [0.1, 0.5, 0.6], num_per_gt=1, **first)[0], [box(10, 10)], 1e-12)
    close(refine([[10.0, 10.0]], detections, [0.5] * 3, max_grow=0.35, **first)[0], [box(10, 10)], 1e-12)  # 5.6
    far = [box(20, 10), box(12, 10)]
    close(refine([[10.0, 10.0]], far, [0.5] * 2, require_point=True, **first)[0], [box(12, 10)], 1e-12)


def test_the_growth_limit_is_the_width_of_the_first_box() -> None:
    """And strict: an edge just there is too far away."""
    tall = np.array([[6.0, 0.0, 14.0, 32.0]])  # 8 wide, 32 high
    detection = np.array([[6.0, 4.0, 14.0, 24.0]])  # its lower edge is 8 from the point
    common = ([[10.0, 16.0]], tall, [0], detection, [0.9], [0])
    for grow, expected in ((1.0, False), (1.6, True)):
        assert PointRefiner(max_grow=grow)(*common)[1].tolist() == [expected]
    assert PointRefiner(max_grow=1.5)(*common)[1].tolist() == [False]  # 12 = 1.5 * 8
    assert PointRefiner(max_grow=1.5, grow_by="sides")(*common)[1].tolist() == [True]


def test_a_point_without_detections_gets_its_first_box_back() -> None:
    boxes, moved = refine([[50.0, 50.0], [10.0, 10.0]], [box(11, 10)], [0.9])
    close(boxes[0], box(50, 50, 16), 0)
    assert moved.tolist() == [False, True]
    boxes, moved = refine([[50.0, 50.0]], np.zeros((0, 4)), [])
    close(boxes, [box(50, 50, 16)], 0)
    assert not moved.any()
    boxes, moved = refine(np.zeros((0, 2)), [box(1, 1)], [0.9])
    assert (boxes.shape, moved.shape) == ((0, 4), (0,))


def test_images_and_classes_do_not_mix() -> None:
    points = [[10.0, 10.0]] * 3
    boxes = [box(10, 10, 16)] * 3
    found = [box(12, 10), box(8, 10), box(10, 13), box(10, 7)]
    refined, moved = PointRefiner(include_point=False)(
        *(points, boxes, [1, 2, 1], found, [0.9] * 4, [1, 2, 7, 1]), images=[5, 5, 6], det_images=[5, 5, 6, 9]
    )
    close(refined, [box(12, 10), box(8, 10), box(10, 10, 16)], 1e-12)
    assert moved.tolist() == [True, True, False]


def test_tensors_are_accepted_and_nothing_is_changed() -> None:
    arrays = [np.array([[10.0, 10.0]]), np.array([box(10, 10, 16)]), np.array([0])]
    arrays += [np.array([box(12, 10)]), np.array([0.5]), np.array([0])]
    copies = [array.copy() for array in arrays]
    of_arrays = PointRefiner()(*arrays)
    of_tensors = PointRefiner()(*(torch.from_numpy(array) for array in arrays))
    for one, other in zip(of_arrays, of_tensors):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(arrays, copies):
        np.testing.assert_array_equal(one, other)


def plain_loop(case: dict[str, np.ndarray], options: dict[str, Any]) -> tuple[np.ndarray, list[bool]]:
    """The steps of section 3.6 of the notes, object by object."""
    refined, moved = case["boxes"].copy(), [False] * len(case["points"])
    groups = np.stack([case["images"], case["classes"]], 1)
    for group in np.unique(groups, axis=0):
        mine = np.flatnonzero((groups == group).all(1))
        found = np.flatnonzero((case["det_images"] == group[0]) & (case["det_classes"] == group[1]))
        found = found[case["scores"][found] > options["score_thr"]]
        if options["num_per_gt"] > 0:
            best = np.argsort(-case["scores"][found], kind="stable")[: options["num_per_gt"] * len(mine)]
            found = found[np.sort(best)]
        centres = (case["det_boxes"][found, :2] + case["det_boxes"][found, 2:]) / 2
        owner = ((centres[:, None] - case["points"][mine]) ** 2).sum(2).argmin(1)
        for number, i in enumerate(mine):
            own = found[owner == number]
            own = own[np.argsort(-case["scores"][own], kind="stable")[: options["topk"]]]
            point, limit = case["points"][i], options["max_grow"] * (case["boxes"][i, 2] - case["boxes"][i, 0])
            own = [k for k in own if (np.abs(case["det_boxes"][k].reshape(2, 2) - point) < limit).all()]
            if own:
                weights, edges = case["scores"][own], case["det_boxes"][own]
                mean = (weights[:, None] * edges).sum(0) / weights.sum()
                refined[i] = [*np.minimum(mean[:2], point), *np.maximum(mean[2:], point)]
                moved[i] = True
    return refined, moved


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 20),
    found=st.integers(0, 80),
    topk=st.integers(1, 6),
    cap=st.sampled_from([-1, 1, 3]),
    pairs=st.sampled_from([1, 7, 1 << 16]),
)
def test_equals_a_plain_loop(seed: int, count: int, found: int, topk: int, cap: int, pairs: int) -> None:
    """With ties of scores and distances, and however many detections are looked at together."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 40, (count, 2)).astype(float)
    corner, side = rng.integers(-4, 40, (found, 2)), rng.integers(1, 24, (found, 2))
    case = {
        "points": points,
        "boxes": np.concatenate([points - 8, points + rng.integers(4, 12, (count, 1))], 1),
        "classes": rng.integers(0, 2, count),
        "images": rng.integers(0, 3, count),
        "det_boxes": np.concatenate([corner, corner + side], 1).astype(float),
        "scores": rng.integers(0, 6, found) / 5,
        "det_classes": rng.integers(0, 3, found),
        "det_images": rng.integers(0, 4, found),
    }
    options: dict[str, Any] = {"topk": topk, "num_per_gt": cap, "score_thr": 0.2, "max_grow": 1.5}
    places = {"images": case["images"], "det_images": case["det_images"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS", pairs)
        arrays = (case[name] for name in ("points", "boxes", "classes", "det_boxes", "scores", "det_classes"))
        boxes, moved = PointRefiner(**options)(*arrays, **places)
    expected, expected_moved = plain_loop(case, options)
    assert moved.tolist() == expected_moved
    close(boxes, expected, 1e-9)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"topk": 0}, "refine.topk"),
        ({"max_grow": 0.0}, "refine.max_grow"),
        ({"max_grow": float("nan")}, "refine.max_grow"),
        ({"mode": "minmax"}, "refine.mode"),
        ({"label": "circle"}, "refine.label"),
        ({"grow_by": "height"}, "refine.grow_by"),
        ({"score_thr": 1.0}, "refine.score_thr"),
        ({"num_per_gt": 0}, "refine.num_per_gt"),
    ],
)
def test_wrong_settings(options: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        PointRefiner(**options)
    assert caught.value.where == key


def test_wrong_arrays() -> None:
    one = ([[1.0, 1.0]], [box(1, 1)], [0])
    with pytest.raises(InputError, match="det_boxes: has numbers that are not finite"):
        PointRefiner()(*one, [[0, 0, np.nan, 1]], [0.5], [0])
    with pytest.raises(InputError, match="det_boxes: of shape"):
        PointRefiner()(*one, [[0, 0, 1]], [0.5], [0])
    with pytest.raises(InputError, match="det_boxes and det_scores: are not as many"):
        PointRefiner()(*one, [box(1, 1)], [0.5, 0.4], [0])
    with pytest.raises(InputError, match="det_classes: are 2 for 1"):
        PointRefiner()(*one, [box(1, 1)], [0.5], [0, 1])
    with pytest.raises(InputError, match="images, det_images: given for one side only"):
        PointRefiner()(*one, [box(1, 1)], [0.5], [0], images=[3])


def content(**more: Any) -> dict[str, Any]:
    """Two images with an object each; a third field that refinement does not know."""
    rows = [
        {"id": i, "image_id": i, "category_id": 4, "point": [10.0, 10.0], "bbox": [2.0, 2.0, 16.0, 16.0], **more}
        for i in (1, 2)
    ]
    images = [{"id": i, "width": 40, "height": 30, "file_name": f"{i}.png"} for i in (1, 2)]
    return {"images": images, "annotations": rows, "categories": [{"id": 4, "name": "person"}], "info": "kept"}


def found(*boxes: list[float], image: int = 1) -> Detections:
    count = len(boxes)
    return Detections(np.full(count, image), np.array(boxes).reshape(-1, 4), np.full(count, 0.5), np.full(count, 4))


def test_files_are_clipped_rounded_and_otherwise_the_same() -> None:
    given = content(note="mine")
    refined = refine_annotations(given, found([-3.0, 5.0, 11.0, 14.12345]), PointRefiner())
    assert given == content(note="mine")
    first, second = refined.pop("annotations")
    assert refined.pop("refinement") == asdict(PointRefiner())
    assert refined == {name: given[name] for name in ("images", "categories", "info")}
    assert first == {**given["annotations"][0], "bbox": [0.0, 5.0, 11.0, 9.123]}  # inclusive pixels: from 0 to 10
    assert second == given["annotations"][1]  # no detection on its image


def test_labels_that_become_too_small_are_left_out_unless_they_are_true_boxes() -> None:
    thin = found([9.0, 9.0, 10.5, 20.0])
    assert [row["id"] for row in refine_annotations(content(), thin, PointRefiner())["annotations"]] == [2]
    full = content(is_fully=1, true_bbox=[3.0, 4.0, 5.0, 6.0])
    rows = refine_annotations(full, thin, PointRefiner())["annotations"]
    assert [row["bbox"] for row in rows] == [[3.0, 4.0, 5.0, 6.0]] * 2


def test_no_detections_at_all_leave_the_labels() -> None:
    assert refine_annotations(content(), found(), PointRefiner()) == content()
