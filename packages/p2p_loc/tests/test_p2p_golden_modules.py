"""Pieces of RepPoints against the numbers of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from p2p_golden import close, load
from torch import Tensor

from p2p_loc.assign import BACKGROUND, assign_by_iou, assign_points, grid_locations
from p2p_loc.losses import focal_loss, smooth_l1
from p2p_loc.reppoints import ADAP_STRIDES, INIT_WEIGHT, SMOOTH_L1_BETA
from p2p_loc.transform import TRANSFORMS, points_to_boxes
from vireo.testing import tensor

TOLERANCE = 1e-5
SIZES = [(-(-128 // stride), -(-160 // stride)) for stride in ADAP_STRIDES]


@pytest.fixture(scope="module")
def case() -> dict[str, np.ndarray]:
    return load("reppoints_modules")


@pytest.fixture(scope="module")
def gt(case: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(case["assign_gt"])


@pytest.mark.parametrize("y_first", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_boxes_of_points(transform: str, y_first: bool, case: dict[str, np.ndarray]) -> None:
    moments = tensor("bbox_head.moment_transfer", (2,))
    boxes = points_to_boxes(tensor("input.pts", (2, 18, 4, 5)), transform, moments, y_first=y_first)  # type: ignore[arg-type]
    close(boxes, case[f"bbox_{transform}_yfirst{int(y_first)}"], TOLERANCE)


def test_gradients_of_the_moments(case: dict[str, np.ndarray]) -> None:
    points = tensor("input.pts", (2, 18, 4, 5)).requires_grad_()
    moments = tensor("bbox_head.moment_transfer", (2,)).requires_grad_()
    (points_to_boxes(points, "moment", moments) * tensor("input.w", (2, 4, 4, 5))).sum().backward()
    close(moments.grad, case["grad_moment_transfer"], TOLERANCE)
    close(points.grad, case["grad_pts"], TOLERANCE)


def test_locations(case: dict[str, np.ndarray]) -> None:
    locations = grid_locations(SIZES, ADAP_STRIDES)
    assert len(locations) == case["grid_count"]
    close(locations[::7], case["grid_points"], TOLERANCE)


@pytest.mark.parametrize(("scale", "pos_num"), [(2, 1), (4, 1), (4, 3)])
def test_objects_of_locations(scale: int, pos_num: int, case: dict[str, np.ndarray], gt: Tensor) -> None:
    match = assign_points(gt, SIZES, ADAP_STRIDES, scale, pos_num)
    labels = torch.from_numpy(case["assign_labels"])[match].where(match != BACKGROUND, -1)
    name = f"point_assign_s{scale}_k{pos_num}"
    close(match + 1, case[name], 0)
    close(labels, case[f"{name}_labels"], 0)


def test_objects_of_boxes(case: dict[str, np.ndarray], gt: Tensor) -> None:
    locations = grid_locations(SIZES, ADAP_STRIDES)
    half = locations[:, 2:] * (0.5 * tensor("input.boxhw", (1706, 2))).exp()
    boxes = torch.cat([locations[:, :2] - half, locations[:, :2] + half], 1)
    close(boxes, case["iou_boxes"], TOLERANCE)
    match, best = assign_by_iou(torch.from_numpy(case["iou_boxes"]), gt)
    theirs = torch.where(match >= 0, match + 1, -1).where(match != BACKGROUND, 0)  # 0: background, -1: neither
    close(theirs, case["iou_assign"], 0)
    close(best, case["iou_assign_max"], TOLERANCE)
    labels = torch.from_numpy(case["assign_labels"])[match].where(match >= 0, -1)
    close(labels, case["iou_assign_labels"], 0)


def test_losses(case: dict[str, np.ndarray]) -> None:
    weight = torch.arange(50) % 5 != 0
    focal = focal_loss(tensor("input.logit", (50, 3)), torch.arange(50) % 4)
    close((focal * weight).sum() / 7, case["focal"], TOLERANCE)
    error = smooth_l1(tensor("input.p", (50, 4)), tensor("input.q", (50, 4)), SMOOTH_L1_BETA)
    close(INIT_WEIGHT * (error * weight).sum() / 9, case["smooth_l1"], TOLERANCE)
