"""Backbones over timm and the feature pyramid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vireo.backbones import FPN, FixedStatsBatchNorm2d, load_registrations, pyramid_backbone
from vireo.errors import InputError

NARROW: dict[str, Any] = {"channels": (8, 16, 24, 32)}
VIT = "vit_tiny_patch16_224"
SMALL_VIT: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3, "out_channels": 16}


def test_maps_have_the_requested_strides_and_channels() -> None:
    backbone: Any = pyramid_backbone("resnet18", norm="gn", strides=(8, 32), channels=(32, 64, 96, 128))
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert backbone.feature_info.channels() == [64, 128]
    assert [tuple(m.shape) for m in maps] == [(1, 64, 8, 12), (1, 128, 2, 3)]


def test_parameter_names_are_torchvisions() -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        theirs = {k: v.shape for k, v in resnet50().state_dict().items() if not k.startswith("fc.")}
        ours = {k: v.shape for k, v in pyramid_backbone("resnet50").state_dict().items()}
    assert ours == theirs


def test_fixed_batch_norm_keeps_its_statistics_and_trains_its_gain() -> None:
    backbone = pyramid_backbone("resnet18", norm="fixed_bn", **NARROW).train()
    norms: list[Any] = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(m, FixedStatsBatchNorm2d) and not m.training for m in norms)
    before = [m.running_mean.clone() for m in norms]
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before))
    assert norms[-1].weight.grad is not None


@pytest.mark.parametrize(("norm", "kind"), [("bn", nn.BatchNorm2d), ("gn", nn.GroupNorm)])
def test_norm_choices(norm: Any, kind: type[nn.Module]) -> None:
    backbone = pyramid_backbone("resnet18", norm=norm, channels=(32, 64, 96, 128))
    assert any(type(m) is kind or isinstance(m, kind) for m in backbone.modules())
    assert not any(isinstance(m, FixedStatsBatchNorm2d) for m in backbone.modules())


def test_frozen_stages_take_the_gradient_from_stem_and_first_stage() -> None:
    with torch.device("meta"):
        backbone = pyramid_backbone("resnet50", frozen_stages=1)
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    assert len(frozen) == 33
    assert all(name.startswith(("conv1", "bn1", "layer1")) for name in frozen)


def test_weights_come_from_a_local_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = pyramid_backbone("resnet18", **NARROW)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    loaded = pyramid_backbone("resnet18", weights=str(tmp_path / "weights.pth"), **NARROW)
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), loaded.state_dict().values()))


def test_missing_weights_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"absent\.pth.*pretrained=false"):
        pyramid_backbone("resnet18", weights=str(tmp_path / "absent.pth"), **NARROW)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no connection to the hub")

    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(InputError, match=r"no connection to the hub.*train from scratch"):
        pyramid_backbone("resnet18", pretrained=True)


def test_unknown_names_and_strides() -> None:
    with pytest.raises(InputError, match=r"unknown backbone 'resnet5O'.*resnet50"):
        pyramid_backbone("resnet5O")
    with pytest.raises(InputError, match=r"model\.norm.*fixed_bn"):
        pyramid_backbone("resnet18", norm="layer")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="strides"):
        pyramid_backbone("resnet18", strides=(3,))


def test_a_plain_transformer_gets_a_feature_pyramid() -> None:
    backbone: Any = pyramid_backbone(VIT, **SMALL_VIT)
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert (backbone.feature_info.channels(), backbone.feature_info.reduction()) == ([16] * 4, [4, 8, 16, 32])
    assert [tuple(m.shape) for m in maps] == [(1, 16, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    sum(m.square().sum() for m in maps).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (VIT, {"patch_size": 8, "img_size": 64}, r"strides \[2, 4, 8, 16\], not \[4, 8, 16, 32\].*patch_size"),
        (VIT, {"strides": (8, 32)}, r"strides \[4, 8, 16, 32\], not \[8, 32\]"),
        (VIT, {"frozen_stages": 1}, r"model\.frozen_stages: .* 0 stages that can be frozen, not 1\. set it to 0"),
        (VIT, {"channels": (8, 16)}, r"unexpected keyword argument 'channels'.*options that it has"),
        ("test_vit_relpos", {}, "no plain transformer for images of any size"),
        (VIT, {"weights": "nowhere.pth"}, r"nowhere\.pth: no such file"),
    ],
)
def test_what_a_plain_transformer_does_not_have(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pyramid_backbone(name, **({**SMALL_VIT, **options} if name == VIT else options))


def test_no_more_stages_are_frozen_than_there_are() -> None:
    with pytest.raises(InputError, match=r"resnet18 has 4 stages that can be frozen, not 9"):
        pyramid_backbone("resnet18", frozen_stages=9, **NARROW)


def test_registrations_can_be_loaded_repeatedly() -> None:
    assert load_registrations() == load_registrations()


@pytest.mark.parametrize(("norm", "extra", "levels"), [("gn", "conv", 3), ("none", "pool", 3), ("none", "none", 2)])
def test_fpn_shapes(norm: Any, extra: Any, levels: int) -> None:
    fpn = FPN([8, 16], 32, norm, extra)
    maps = fpn([torch.randn(2, 8, 9, 13), torch.randn(2, 16, 5, 7)])
    shapes = [(2, 32, 9, 13), (2, 32, 5, 7), (2, 32, 3, 4)]
    assert [tuple(m.shape) for m in maps] == shapes[:levels]
    assert any("bias" in name and "conv." in name for name, _ in fpn.named_parameters()) == (norm == "none")
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is not None for p in fpn.parameters())


@pytest.mark.parametrize("extra", ["conv", "pool"])
def test_fpn_with_two_extra_levels(extra: Any) -> None:
    fpn = FPN([8, 16], 32, extra=extra, extra_levels=2)
    maps = fpn([torch.randn(1, 8, 9, 13), c5 := torch.randn(1, 16, 5, 7)])
    assert [tuple(m.shape[2:]) for m in maps] == [(9, 13), (5, 7), (3, 4), (2, 2)]
    if extra == "conv":
        state = fpn.state_dict()
        assert [state[f"fpn_convs.{i}.conv.weight"].shape[1] for i in (2, 3)] == [16, 32]
        torch.testing.assert_close(maps[2], fpn.fpn_convs[2](c5))
        torch.testing.assert_close(maps[3], fpn.fpn_convs[3](maps[2]))  # no activation between
    else:
        torch.testing.assert_close(maps[3], maps[1][..., ::4, ::4])


def test_fpn_that_returns_its_finest_level_only() -> None:
    whole = FPN([8, 16], 32, extra="none")
    fpn = FPN([8, 16], 32, extra="none", outputs=1)
    fpn.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("fpn_convs.1.")})
    maps = [torch.randn(1, 8, 9, 13), torch.randn(1, 16, 5, 7)]
    (found,) = fpn(maps)
    torch.testing.assert_close(found, whole(maps)[0])
    with pytest.raises(InputError, match="only 1 of 2 levels"):
        FPN([8, 16], 32, outputs=1)


def test_plain_fpn_equals_torchvisions() -> None:
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    ours = FPN([8, 16, 24], 32, "none", "pool")
    theirs = FeaturePyramidNetwork([8, 16, 24], 32, LastLevelMaxPool())
    renamed = {
        name.replace("lateral_convs.", "inner_blocks.")
        .replace("fpn_convs.", "layer_blocks.")
        .replace(".conv.", ".0."): value
        for name, value in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    maps = [torch.randn(1, c, 40 // s, 56 // s) for c, s in ((8, 1), (16, 2), (24, 4))]
    expected = theirs({str(i): m for i, m in enumerate(maps)})
    for a, b in zip(ours(maps), expected.values()):
        torch.testing.assert_close(a, b)
