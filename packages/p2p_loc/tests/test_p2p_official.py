"""Checkpoints in the authors' layout, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from p2p_golden import keys
from p2p_networks import narrow

from p2p_loc.official import from_official, official_name, own_name, to_official
from p2p_loc.p2p_head import P2PNet
from p2p_loc.reppoints import RepPoints
from vireo.errors import InputError

NARROW = {"channels": 8, "frozen_stages": 0, "backbone_options": {"channels": [8, 8, 8, 8]}}
KINDS: dict[str, Any] = {
    "reppoints_adap_r50": lambda **options: RepPoints(1, **options),
    "reppoints_r50": lambda **options: RepPoints(1, strides=(8, 16, 32, 64, 128), base_scale=4.0, **options),
    "p2p_r50_fpns4": lambda **options: P2PNet(1, **options),
}


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("form", ["flat", "state_dict", "file"])
def test_goes_round_exactly(name: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = KINDS[name](**NARROW)
    theirs = to_official(model)
    assert theirs.keys() == keys(name).keys()
    content: Any = {"meta": {"epoch": 12}, "state_dict": theirs} if form != "flat" else theirs
    if form == "file":
        torch.save(content, tmp_path / "epoch_12.pth")
        content = tmp_path / "epoch_12.pth"
    found = from_official(content, **NARROW)
    assert type(found) is type(model)
    assert not found.training
    assert vars(found.head).get("base_scale") == vars(model.head).get("base_scale")
    again = to_official(found)
    assert all(torch.equal(again[key], value) for key, value in theirs.items())
    images = torch.randn(1, 3, 64, 64)
    (a,), (b,) = (network.eval().candidates(images, [(64, 64)]) for network in (model, found))
    torch.testing.assert_close(a.scores, b.scores)


def test_sizes_are_those_of_the_file() -> None:
    torch.manual_seed(0)
    visdrone = RepPoints(3, strides=(8, 16, 32, 64, 128), base_scale=2.0, **NARROW)  # type: ignore[arg-type]
    found = from_official(to_official(visdrone), base_scale=2.0, **NARROW)
    assert isinstance(found, RepPoints)
    assert (found.num_classes, found.head.strides, found.head.base_scale) == (3, (8, 16, 32, 64, 128), 2.0)
    deep = RepPoints(1, "resnet101", transform="minmax", **NARROW)  # type: ignore[arg-type]
    again = from_official(to_official(deep), **NARROW)
    assert isinstance(again, RepPoints)
    assert again.head.transform == "minmax"
    anchors = [[0.0, 0.0], [0.5, 0.5]]
    p2p = from_official(to_official(P2PNet(2, stride=8, anchors=anchors, **NARROW)), anchors=anchors, **NARROW)  # type: ignore[arg-type]
    assert isinstance(p2p, P2PNet)
    assert (p2p.num_classes, p2p.head.stride, len(p2p.head.anchors)) == (2, 8, 2)


@pytest.mark.parametrize("kind", ["adap", "p2p"])
def test_names_go_both_ways(kind: str) -> None:
    for name in narrow(kind).state_dict():
        assert own_name(official_name(name, kind == "adap")) == name


def test_what_does_not_fit_is_named() -> None:
    state = to_official(narrow("adap"))
    options = {"backbone": "resnet18", "norm": "gn", "frozen_stages": 0, "channels": 32}
    options["backbone_options"] = {"channels": [32, 32, 64, 64]}
    missing = {k: v for k, v in state.items() if k != "bbox_head.reppoints_pts_init_out.bias"}
    with pytest.raises(InputError, match=r"does not fit the model; .*head\.pts_init_out\.bias"):
        from_official(missing, **options)
    with pytest.raises(InputError, match=r"bbox_head\.extra|head\.extra"):
        from_official({**state, "bbox_head.extra": torch.zeros(1)}, **options)
    with pytest.raises(InputError, match="holds no RepPoints and no P2PHead"):
        from_official({"backbone.conv1.weight": torch.zeros(8, 3, 7, 7)})
    with pytest.raises(InputError, match="holds no RepPoints and no P2PHead"):
        from_official({k: v for k, v in state.items() if not k.startswith("bbox_head.")})
    with pytest.raises(InputError, match="no such file"):
        from_official("nowhere.pth")
