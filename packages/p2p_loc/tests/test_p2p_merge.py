"""Joining of detections: duplicates in overlaps go, neighbours and other classes stay."""

from __future__ import annotations

import numpy as np
import torch

from p2p_loc.merge import merge_tiles, offline_merge


def test_an_object_in_two_tiles_is_found_once() -> None:
    boxes = [torch.tensor([[85.0, 10, 95, 20], [10, 10, 20, 20]]), torch.tensor([[5.0, 10, 15, 20]])]
    scores = [torch.tensor([[0.9, 0.0], [0.04, 0.3]]), torch.tensor([[0.8, 0.7]])]
    found = merge_tiles(boxes, scores, [[0, 0, 100, 50], [80, 0, 180, 50]])
    assert found["scores"].tolist() == torch.tensor([0.9, 0.7, 0.3]).tolist()
    assert found["labels"].tolist() == [0, 1, 1]
    assert found["boxes"].tolist() == [[85, 10, 95, 20], [85, 10, 95, 20], [10, 10, 20, 20]]
    assert merge_tiles(boxes, scores, [[0, 0], [80, 0]], max_detections=1)["scores"].tolist() == [scores[0][0, 0]]


def test_tiles_without_candidates() -> None:
    empty = merge_tiles([torch.zeros(0, 4)] * 2, [torch.zeros(0, 3)] * 2, [[0, 0], [80, 0]])
    assert empty["boxes"].shape == (0, 4)
    assert [len(value) for value in merge_tiles([], [], []).values()] == [0, 0, 0]
    labels = [torch.zeros(0, dtype=torch.long)] * 2
    assert (
        len(merge_tiles([torch.zeros(0, 4)] * 2, [torch.zeros(0)] * 2, [[0, 0], [80, 0]], labels=labels)["labels"]) == 0
    )


def test_offline_merge_like_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 40, (80, 2)), rng.uniform(3, 20, (80, 2))], 1)
    scores, offsets = rng.integers(0, 20, 80) / 20, rng.integers(0, 2, (80, 2)) * 20
    moved = boxes + np.pad(offsets, ((0, 0), (0, 2)))
    kept: list[int] = []
    for i in sorted(range(80), key=lambda i: (-scores[i], i)):
        if all(inclusive_iou(moved[i], moved[j]) < 0.5 for j in kept):
            kept.append(i)
    found, places = offline_merge(boxes, scores, offsets)
    assert found.tolist() == sorted(kept)
    np.testing.assert_array_equal(places, moved)
    assert len(offline_merge(np.zeros((0, 4)), [], np.zeros((0, 2)))[0]) == 0


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2]) + 1
    overlap = float(np.prod(np.maximum(sides, 0)))
    return overlap / (np.prod(a[2:] + 1) + np.prod(b[2:] + 1) - overlap)
