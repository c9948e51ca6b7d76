"""Assignment of objects to locations against plain loops over the objects."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from p2p_loc.assign import BACKGROUND, IGNORED, assign_by_iou, assign_points, grid_locations, pairwise_iou

STRIDES = (4, 8, 16, 32)
SIZES = [(-(-60 // stride), -(-100 // stride)) for stride in STRIDES]


def some_boxes(seed: int) -> Tensor:
    """Boxes of 1 to 60 px; of even seeds on whole pixels and in threes, so that distances are equal."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 25, (), generator=generator))
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([100.0, 60.0])
    side = torch.exp(torch.rand(count, 2, generator=generator) * math.log(60))
    boxes = torch.cat([centre - side / 2, centre + side / 2], 1)
    return boxes.round().repeat(3, 1) if seed % 2 == 0 else boxes


def points_one_by_one(boxes: Tensor, scale: float, pos_num: int, area: tuple[int, int] | None) -> Tensor:
    locations = grid_locations(SIZES, STRIDES)
    usable = torch.ones(len(locations), dtype=torch.bool)
    if area is not None:
        usable = (locations[:, 0] < area[1]) & (locations[:, 1] < area[0])
    match = torch.full((len(locations),), BACKGROUND)
    nearest = torch.full((len(locations),), torch.inf)
    for i, box in enumerate(boxes):
        side = (box[2:] - box[:2]).clamp(min=1e-6)
        level = int(((side / scale).log2()[0] + (side / scale).log2()[1]) / 2)
        stride = min(max(2**level, STRIDES[0]), STRIDES[-1]) if level >= 0 else STRIDES[0]
        (there,) = ((locations[:, 2] == stride) & usable).nonzero(as_tuple=True)
        distance = ((locations[there, :2] - (box[:2] + box[2:]) / 2) / side).norm(dim=1)
        for k in distance.sort(stable=True).indices[:pos_num]:
            if distance[k] < nearest[there[k]]:
                match[there[k]], nearest[there[k]] = i, distance[k]
    return match


@pytest.mark.parametrize("area", [None, (32, 64)])
@pytest.mark.parametrize("pos_num", [1, 2, 3])
@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_points_equal_those_of_a_loop(scale: float, pos_num: int, area: tuple[int, int] | None) -> None:
    claimed = 0
    for seed in range(20):
        boxes = some_boxes(seed)
        expected = points_one_by_one(boxes, scale, pos_num, area)
        assert torch.equal(assign_points(boxes, SIZES, STRIDES, scale, pos_num, area), expected), seed
        claimed += int((expected >= 0).sum())
    assert claimed > 150


def test_nearer_object_takes_the_location_and_the_first_of_equals() -> None:
    far, near = torch.tensor([11.0, 9, 27, 25]), torch.tensor([9.0, 9, 25, 25])
    boxes = torch.stack([far, near, near])
    match = assign_points(boxes, SIZES, STRIDES, 2.0)
    (taken,) = (match >= 0).nonzero()[:, 0]
    assert grid_locations(SIZES, STRIDES)[taken].tolist() == [16.0, 16.0, 8.0]
    assert match[taken] == 1


def test_more_locations_wanted_than_a_level_has() -> None:
    match = assign_points(torch.tensor([[0.0, 0, 400, 400]]), SIZES, STRIDES, 2.0, pos_num=20)
    assert int((match == 0).sum()) == SIZES[-1][0] * SIZES[-1][1] == 8


def boxes_one_by_one(candidates: Tensor, boxes: Tensor) -> Tensor:
    match = torch.full((len(candidates),), BACKGROUND)
    if len(boxes) == 0:
        return match
    iou = pairwise_iou(candidates, boxes)
    for i, row in enumerate(iou):
        best = float(row.max())
        match[i] = int(row.argmax()) if best >= 0.5 else BACKGROUND if best < 0.4 else IGNORED
    for j, column in enumerate(iou.T):
        match[column == column.max()] = j
    return match


def test_boxes_equal_those_of_a_loop() -> None:
    locations = grid_locations(SIZES, STRIDES)
    seen = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(100 + seed)
        half = locations[:, 2:] * torch.exp(torch.randn(len(locations), 2, generator=generator) / 2)
        candidates = torch.cat([locations[:, :2] - half, locations[:, :2] + half], 1).round()
        boxes = some_boxes(seed)
        expected = boxes_one_by_one(candidates, boxes)
        assert torch.equal(assign_by_iou(candidates, boxes)[0], expected), seed
        seen |= set(expected.clamp(max=0).tolist())

        usable = torch.rand(len(locations), generator=generator) < 0.7
        match, best = assign_by_iou(candidates, boxes, usable=usable)
        assert torch.equal(match[usable], assign_by_iou(candidates[usable], boxes)[0])
        assert (match[~usable] == IGNORED).all()
        assert len(boxes) == 0 or (best[~usable] < 0).all()
    assert seen == {BACKGROUND, IGNORED, 0}


def test_box_that_nothing_overlaps_gets_all_that_do_not_overlap_it() -> None:
    """The authors' rule: the best IoU of a box counts even if it is 0; a later box takes precedence."""
    candidates = torch.tensor([[0.0, 0, 4, 4], [10, 10, 20, 20]])
    alone, there = [50.0, 50, 60, 60], [10.0, 10, 20, 20]
    assert assign_by_iou(candidates, torch.tensor([alone, there]))[0].tolist() == [0, 1]
    match, best = assign_by_iou(candidates, torch.tensor([there, alone]))
    assert match.tolist() == [1, 1]
    assert best.tolist() == [0.0, 1.0]


def test_overlaps_of_boxes_without_area() -> None:
    iou = pairwise_iou(torch.tensor([[5.0, 5, 5, 5], [0, 0, 4, 2]]), torch.tensor([[5.0, 5, 5, 5], [2, 0, 6, 2]]))
    assert iou.tolist() == [[0.0, 0.0], [0.0, pytest.approx(1 / 3)]]
