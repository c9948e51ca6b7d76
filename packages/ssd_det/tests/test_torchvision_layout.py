"""Weights in torchvision's layout: they load, and the parts that agree compute the same."""

from __future__ import annotations

import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from ssd_det.model import SSDDet
from ssd_det.torchvision_layout import to_torchvision


@torch.no_grad()
def test_plain_detector_loads_strictly_and_computes_the_same() -> None:
    torch.manual_seed(0)
    ours = SSDDet("resnet50", 7, refiner=None, neck_norm="none", fpn_channels=256, hidden=1024).eval()
    with torch.device("meta"):
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=8).eval()
    theirs.load_state_dict(to_torchvision(ours.state_dict()), strict=True, assign=True)
    images = torch.randn(1, 3, 64, 96)
    features = ours.extract(images)
    expected = list(theirs.backbone(images).values())
    # torchvision's frozen normalisation and ours round differently
    for a, b in zip(features, expected):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    logits, offsets = ours.rpn(features)
    for a, b in zip([*logits, *offsets], [part for parts in theirs.rpn.head(features) for part in parts]):
        torch.testing.assert_close(a, b)
    rois = torch.randn(5, 256, 7, 7)
    hidden = ours.rcnn.mlp(rois)
    torch.testing.assert_close(hidden, theirs.roi_heads.box_head(rois))
    scores, boxes = theirs.roi_heads.box_predictor(hidden)
    torch.testing.assert_close(scores.roll(-1, 1), ours.rcnn.cls(hidden))
    torch.testing.assert_close(boxes[:, 4:], ours.rcnn.reg(hidden))


def test_groupnorm_pyramid_and_refiner() -> None:
    with torch.device("meta"):
        state = to_torchvision(SSDDet("resnet50", 7).state_dict())
    assert not any("refiner" in name for name in state)
    assert state["backbone.fpn.inner_blocks.3.1.weight"].shape == (256,)
    assert state["backbone.fpn.extra_blocks.p6.0.weight"].shape == (256, 2048, 3, 3)
    assert state["roi_heads.box_predictor.bbox_pred.weight"].shape == (32, 1024)
