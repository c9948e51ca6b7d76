"""Student and teacher in detectron2. All but the first test need detectron2, which no other part does.

Tried with the Python part of detectron2 at the commit that the adapter names; its compiled operators are not needed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from g2sd_detect_runs import SIDE, tiny_detector

from g2sd.official_detector import to_official
from vireo.errors import InputError

SMALL: dict[str, Any] = {"img_size": SIDE, "pretrain_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2}
SMALL |= {"num_heads": 2, "window": 3, "channels": 8}


def test_message_without_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detectron2", "detectron2.config"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    monkeypatch.delitem(sys.modules, "g2sd.detectron2", raising=False)
    with pytest.raises(ImportError, match=r"g2sd.detectron2 needs detectron2.*pip install --no-build-isolation"):
        importlib.import_module("g2sd.detectron2")


@pytest.fixture
def adapter() -> Any:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    import g2sd.detectron2

    return g2sd.detectron2


def test_registry(adapter: Any) -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    adapter.add_g2sd_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.G2SD.SIZE = "build_g2sd_vitdet_backbone", "vit_tiny"
    with torch.device("meta"):
        network = build_backbone(cfg)
    assert network.features.body.embed_dim == 192
    assert network.padding_constraints == {"size_divisibility": 32, "square_size": 1024}
    assert {name: (shape.channels, shape.stride) for name, shape in network.output_shape().items()} == {
        f"p{level}": (256, 2**level) for level in range(2, 7)
    }


def small(config: Any) -> Any:
    """The heads of the tiny detectors."""
    config.roi_heads.box_head.fc_dims, config.roi_heads.box_predictor.input_shape.channels = [16], 16
    config.proposal_generator.anchor_generator.strides = [2, 4, 8, 16, 32]
    config.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
    for pooler in (config.roi_heads.box_pooler, config.roi_heads.mask_pooler):
        pooler.scales, pooler.canonical_level, pooler.canonical_box_size = [1 / 2, 1 / 4, 1 / 8, 1 / 16], 3, 112
    return config


@torch.no_grad()
def test_detections_are_ours(adapter: Any, tmp_path: Path) -> None:
    from detectron2.config import instantiate

    own = tiny_detector()
    torch.save({"model": to_official(own)}, tmp_path / "model.pth")
    config = small(adapter.mask_rcnn("vit_tiny", num_classes=3, **SMALL))
    config.roi_heads.box_predictor.test_score_thresh = 0.0
    model = instantiate(config).eval()
    adapter.load_weights(model, tmp_path / "model.pth")
    image = torch.randint(0, 256, (3, 24, 32)).float()
    (found,) = model([{"image": image, "height": 24, "width": 32}])
    own.detector.roi_heads.score_thresh = 0.0
    (expected,) = own.detector([image / 255])
    torch.testing.assert_close(found["instances"].scores[:10], expected["scores"][:10], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["instances"].pred_boxes.tensor[:10], expected["boxes"][:10], rtol=1e-3, atol=1e-2)
    with pytest.raises(InputError, match="does not fit"):
        adapter.load_weights(
            instantiate(small(adapter.mask_rcnn("vit_tiny", num_classes=4, **SMALL))), tmp_path / "model.pth"
        )


def test_student_and_teacher(adapter: Any, tmp_path: Path) -> None:
    from detectron2.config import instantiate
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    torch.save({"model": to_official(tiny_detector(embed_dim=32))}, tmp_path / "teacher.pth")
    larger = {**SMALL, "embed_dim": 32}
    config = adapter.distilled_mask_rcnn(
        "vit_tiny",
        "vit_tiny",
        teacher_weights=str(tmp_path / "teacher.pth"),
        num_classes=3,
        teacher_options=larger,
        **SMALL,
    )
    small(config.student)
    small(config.teacher)
    model = instantiate(config)
    assert not any("teacher" in name for name in model.state_dict())
    given = Instances((24, 32))
    given.gt_boxes, given.gt_classes = Boxes(torch.tensor([[3.0, 4.0, 20.0, 22.0]])), torch.tensor([1])
    masks = torch.zeros(1, 24, 32, dtype=torch.bool)
    masks[:, 4:22, 3:20] = True
    given.gt_masks = BitMasks(masks)
    record = {"image": torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8), "height": 24, "width": 32}
    with EventStorage(start_iter=600):
        losses = model.train()([{**record, "instances": given}] * 2)
    names = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert losses.keys() == names | {"loss_imitation_features", "loss_imitation_objectness"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    (found,) = model.eval()([record])
    assert found["instances"].has("pred_masks")
