"""The pyramid as a backbone of detectron2. All but the first test need detectron2, which no other part does.

Tried with the Python part of detectron2 at the commit that the adapter names; its compiled operators are not needed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from itpn_golden import filled, image, load

from vireo.errors import InputError

SMALL: dict[str, Any] = {"embed_dim": 64, "depths": (2, 1, 3), "num_heads": 4}


def test_message_without_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detectron2", "detectron2.config"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    monkeypatch.delitem(sys.modules, "itpn.detectron2", raising=False)
    with pytest.raises(ImportError, match=r"itpn.detectron2 needs detectron2.*pip install --no-build-isolation"):
        importlib.import_module("itpn.detectron2")


@pytest.fixture
def adapter() -> Any:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    import itpn.detectron2

    return itpn.detectron2


def test_backbone_from_a_checkpoint(adapter: Any, tmp_path: Path) -> None:
    torch.save({"model": filled("tiny_clip_mim")}, tmp_path / "weights.pth")
    sizes = {**SMALL, "depths": (2, 1, 5), "img_size": 64, "init_values": 0.1, "fpn_dim": 32}
    network = adapter.pyramid_backbone(weights=tmp_path / "weights.pth", **sizes).eval()
    assert network.features.neck.depth == 1
    assert {name: (shape.channels, shape.stride) for name, shape in network.output_shape().items()} == {
        f"p{level}": (32, 2**level) for level in range(2, 7)
    }
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, 96, 64))
    assert [tuple(m.shape) for m in maps.values()][:2] == [(1, 32, 24, 16), (1, 32, 12, 8)]


def test_faults(adapter: Any) -> None:
    with pytest.raises(InputError, match="no pyramid of Fast-iTPN"):
        adapter.pyramid_backbone("fast_itpn_tiny")


@torch.no_grad()
def test_maps_are_the_authors(adapter: Any, tmp_path: Path) -> None:
    torch.save({"model": filled("tiny_det_pixel")}, tmp_path / "weights.pth")
    network = adapter.pyramid_backbone(weights=tmp_path / "weights.pth", fpn_dim=32, **SMALL).eval()
    expected = load("tiny_det_pixel")
    for level, found in enumerate(network(image(2, 96, 160)).values()):
        torch.testing.assert_close(found[:, ::2], expected[f"out{level}"], rtol=1e-3, atol=1e-3)


def test_registry(adapter: Any) -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    adapter.add_itpn_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.ITPN.SIZE = "build_itpn_backbone", "hivit_tiny"
    with torch.device("meta"):
        network = build_backbone(cfg)
    assert network.features.backbone.embed_dim == 384
    assert network.size_divisibility == 32


def test_mask_rcnn_trains_and_detects(adapter: Any) -> None:
    from detectron2.config import instantiate
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    from itpn.layer_decay import layer_decay_groups

    torch.manual_seed(0)
    model = instantiate(adapter.mask_rcnn("hivit_tiny", num_classes=3, norm="BN", drop_path_rate=0.0, **SMALL))
    given = Instances((96, 128))
    given.gt_boxes = Boxes(torch.tensor([[10.0, 12.0, 60.0, 70.0]]))
    given.gt_classes = torch.tensor([1])
    masks = torch.zeros(1, 96, 128, dtype=torch.bool)
    masks[:, 12:70, 10:60] = True
    given.gt_masks = BitMasks(masks)
    record = {"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8), "height": 96, "width": 128}
    with EventStorage():
        losses = model.train()([{**record, "instances": given}] * 2)
    assert losses.keys() == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    assert len(layer_decay_groups(model, 1e-4, 0.9, scheme="det")) > 8
    (found,) = model.eval()([record])
    assert found["instances"].has("pred_masks")
