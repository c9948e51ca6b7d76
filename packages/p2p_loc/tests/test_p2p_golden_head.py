"""P2PHead against the numbers of the authors' code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from p2p_golden import close, load
from torch import Tensor

from p2p_loc.assign import BACKGROUND
from p2p_loc.nms import multiclass_nms
from p2p_loc.p2p_head import P2PHead, P2POutput
from vireo.testing import fill_state_dict, tensor

TOLERANCE = 1e-4
SIZE = (64, 80)


@pytest.fixture(scope="module")
def case() -> dict[str, np.ndarray]:
    return load("p2p_head")


@pytest.fixture(scope="module")
def head() -> P2PHead:
    head = P2PHead(1)
    fill_state_dict(head.state_dict())
    with torch.no_grad():
        head.cls_out.weight.mul_(0.2)
    return head


@pytest.fixture(scope="module")
def feature() -> Tensor:
    return tensor("input.feat", (2, 256, 16, 20))


@pytest.fixture(scope="module")
def found(head: P2PHead, feature: Tensor) -> P2POutput:
    return head(feature)


@pytest.fixture(scope="module")
def targets(case: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"boxes": torch.from_numpy(case[f"gt{i}"]), "labels": torch.from_numpy(case[f"labels{i}"]), "size": SIZE}
        for i in range(2)
    ]


def test_predictions(case: dict[str, np.ndarray], head: P2PHead, feature: Tensor, found: P2POutput) -> None:
    logits, shifts = head.maps(feature)
    close(logits, case["cls_out"], TOLERANCE)
    close(shifts, case["pts_out"], TOLERANCE)
    close(with_stride(found.locations[None, ::5], head), case["anchor_pts"], TOLERANCE)
    close(with_stride(found.points, head), case["pred_pts"], TOLERANCE)
    close(found.logits, case["cls_flat"], TOLERANCE)


def with_stride(points: Tensor, head: P2PHead) -> Tensor:
    return torch.cat([points, torch.full_like(points[..., :1], head.stride)], dim=-1)


def test_losses(case: dict[str, np.ndarray], head: P2PHead, found: P2POutput, targets: list[dict[str, Any]]) -> None:
    assigned = head.assign(found, targets)
    on = assigned.match != BACKGROUND
    close(assigned.labels, case["target_labels"], 0)
    close(assigned.usable, case["target_label_weights"], 0)
    close(on, case["target_weights"], 0)
    close(assigned.goals[0, on[0]], case["target_points_pos0"], TOLERANCE)
    losses = head.losses(found, targets)
    close(losses["loss_cls"], case["loss_cls"], TOLERANCE)
    close(losses["loss_pts"], case["loss_pts"], TOLERANCE)


@pytest.mark.parametrize("i", [0, 1])
def test_detections(i: int, case: dict[str, np.ndarray], head: P2PHead, found: P2POutput) -> None:
    candidates = head.candidates(found, [SIZE] * 2)[i]
    kept = multiclass_nms(candidates.boxes, candidates.scores, iou=0.2)
    assert len(kept["scores"]) == case[f"det{i}_count"]
    close(torch.cat([kept["boxes"], kept["scores"][:, None]], 1)[:30], case[f"det{i}"], TOLERANCE)
    close(kept["labels"][:30], case[f"det{i}_label"], 0)
