"""The backbones in timm's registry: sizes, classifiers, maps, released files, pyramids for any detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from itpn_golden import filled

from itpn.features import iTPNFeatures
from itpn.sizes import SIZES
from vireo.backbones import load_registrations, pyramid_backbone
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError

SMALL: dict[str, Any] = {"img_size": 64, "embed_dim": 64, "num_heads": 4}
FILES = {
    "itpn_base": ("tiny_pixel_mim", {**SMALL, "depths": (2, 2, 3)}),
    "itpn_base.clip": ("tiny_clip_mim", {**SMALL, "depths": (2, 1, 5)}),
    "fast_itpn_tiny": ("tiny_fast_default", {**SMALL, "depths": (2, 1, 3)}),
}


@pytest.fixture(autouse=True)
def _registered() -> None:
    assert "itpn" in load_registrations()


def create(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **options)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    side = 256 if name == "fast_itpn_large" else 224
    with torch.device("meta"):
        for full in (name, f"{name}_patch16_{side}"):
            network = create(full, num_classes=7)
            assert (network.embed_dim, network.depths) == (SIZES[name]["embed_dim"], SIZES[name]["depths"])
            assert network.pretrained_cfg["input_size"] == (3, side, side)
            assert network.grid_size == (side // 16, side // 16)
            assert network.get_classifier().out_features == 7


@pytest.mark.parametrize(
    "name",
    [
        "itpn_base_3324_patch16_224",
        "itpn_large_2240_patch16_224",
        "itpn_large_2240_patch16_256",
        "fast_itpn_tiny_1112_patch16_224",
        "fast_itpn_small_2220_patch16_224",
        "fast_itpn_base_3324_patch16_224",
        "fast_itpn_large_2240_patch16_256",
    ],
)
def test_names_of_the_authors(name: str) -> None:
    depths = "".join(map(str, create_meta(name).depths))
    assert f"_{depths}_" in name


def create_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"), pytest.warns(UserWarning, match="deprecated"):
        return create(name, **options)


def test_tags_say_what_was_released() -> None:
    with torch.device("meta"):
        pixel, clip = create("itpn_base_patch16_224.pixel"), create("itpn_base_patch16_224.clip")
        fast = create("fast_itpn_base")
    assert pixel.pretrained_cfg["mean"] == fast.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert clip.pretrained_cfg["mean"] == clip.pretrained_cfg["std"] == (0.5, 0.5, 0.5)
    scaled = [any("gamma" in key for key in network.state_dict()) for network in (pixel, clip, fast)]
    assert scaled == [False, True, True]
    assert fast.pretrained_cfg["notes"] == ("released as fast_itpn_base_clipl_e1600.pt",)


@pytest.mark.parametrize("name", FILES)
def test_released_files(name: str, tmp_path: Path) -> None:
    case, sizes = FILES[name]
    state = filled(case)
    torch.save({"model": state, "epoch": 1600}, tmp_path / "weights.pth")
    network = create(name, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")}, **sizes)
    own = network.state_dict()
    loaded = [key for key in own if key in state and not key.startswith(("fc_norm", "head"))]
    assert len(loaded) > 60
    assert all(torch.equal(own[key], state[key]) for key in loaded)
    assert network.num_classes == 1000


def test_layer_scale_is_that_of_the_file(tmp_path: Path) -> None:
    found = []
    for case, sizes in (FILES["itpn_base"], FILES["itpn_base.clip"]):
        torch.save({"model": filled(case)}, tmp_path / "weights.pth")
        overlay = {"file": str(tmp_path / "weights.pth")}
        network = create("itpn_base.pixel", pretrained=True, pretrained_cfg_overlay=overlay, **sizes)
        found.append("blocks.0.gamma_2" in network.state_dict())
    assert found == [False, True]
    torch.save({"model": filled("tiny_pixel_mim")}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="init_values=None"):
        create("itpn_base", pretrained=True, pretrained_cfg_overlay=overlay, init_values=0.1, **FILES["itpn_base"][1])


def test_classifier_of_as_many_classes(tmp_path: Path) -> None:
    state = filled("tiny_fast_default")
    torch.save(state, tmp_path / "weights.pth")
    options = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}
    options |= {**SMALL, "depths": (2, 1, 3)}
    assert torch.equal(create("fast_itpn_tiny", num_classes=10, **options).head.weight, state["head.weight"])
    assert create("fast_itpn_tiny", num_classes=3, **options).head.weight.shape == (3, 64)


@pytest.mark.parametrize("name", ["itpn_base", "fast_itpn_base"])
def test_maps(name: str) -> None:
    sizes = {**SMALL, "depths": (1, 1, 2)}
    maps = create(name, features_only=True, out_indices=(0, 2), **sizes).eval()
    assert maps.feature_info.reduction() == [4, 16]
    assert maps.feature_info.channels() == [16, 64]
    images = torch.randn(2, 3, 96, 64)
    assert [tuple(m.shape) for m in maps(images)] == [(2, 16, 24, 16), (2, 64, 6, 4)]
    whole = create(name, num_classes=0, **sizes).eval()
    tokens, found = whole.forward_intermediates(images, indices=[1, 2])
    torch.testing.assert_close(tokens, whole.forward_features(images))
    torch.testing.assert_close(found[1].flatten(2).transpose(1, 2), tokens)
    early = whole.forward_intermediates(images, indices=[0], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early[0], maps.model.forward_intermediates(images, indices=[0])[1][0])


@pytest.mark.parametrize("name", ["itpn_base", "fast_itpn_base"])
def test_what_timm_asks_of_a_model(name: str) -> None:
    network = create(name, num_classes=5, **SMALL, depths=(1, 1, 2)).train()
    images = torch.randn(2, 3, 64, 64)
    assert network(images).shape == (2, 5)
    torch.testing.assert_close(network.forward_head(network.forward_features(images)), network(images))
    assert network.forward_head(network.forward_features(images), pre_logits=True).shape == (2, 64)
    network(images).square().sum().backward()
    plain = {key: parameter.grad.clone() for key, parameter in network.named_parameters() if parameter.grad is not None}
    network.zero_grad()
    network.set_grad_checkpointing()
    network(images).square().sum().backward()
    assert len(plain) == len(list(network.parameters()))
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[key])
    network.reset_classifier(0)
    assert network(images).shape == (2, 64)
    network.reset_classifier(3)
    assert network(images).shape == (2, 3)
    groups = timm.models.group_parameters(network, network.group_matcher(), reverse=True)
    assert groups["patch_embed.proj.weight"] == 0
    assert groups["blocks.5.mlp.fc1.weight" if name == "itpn_base" else "blocks.5.mlp.w1.weight"] == 6
    assert groups["head.weight"] == 7
    assert all("pos_embed" in key or "table" in key for key in network.no_weight_decay())
    assert network.no_weight_decay()


def pyramid(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {**SMALL, "depths": (1, 1, 2), "fpn_dim": 24}
    return pyramid_backbone("itpn_tiny_pyramid", **{**sizes, **options})


def test_pyramid_by_name() -> None:
    network = pyramid().train()
    images = torch.randn(1, 3, 64, 96)
    maps = network(images)
    assert [tuple(m.shape) for m in maps] == [(1, 24, 16, 24), (1, 24, 8, 12), (1, 24, 4, 6), (1, 24, 2, 3)]
    assert network.feature_info.channels() == [24] * 4
    assert network.feature_info.reduction() == [4, 8, 16, 32]
    sum(m.square().sum() for m in maps).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(InputError, match="0 stages that can be frozen"):
        pyramid(frozen_stages=1)


@pytest.mark.parametrize(
    "name", ["itpn_tiny_pyramid", "itpn_base_pyramid", "itpn_large_pyramid", "itpn_base_pyramid.clip"]
)
def test_pyramids(name: str) -> None:
    with torch.device("meta"):
        network = create(name, features_only=True)
    assert network.feature_info.channels() == [256] * 4
    assert any("gamma" in key for key in network.state_dict()) == name.endswith("clip")


@pytest.mark.parametrize(("case", "depths"), [("tiny_pixel_mim", (2, 2, 3)), ("tiny_clip_mim", (2, 1, 5))])
@pytest.mark.parametrize("ours", [False, True], ids=["theirs", "ours"])
def test_pyramid_is_pre_trained_as_a_whole(case: str, depths: Any, ours: bool, tmp_path: Path) -> None:
    state = filled(case)
    torch.save({"model": state}, tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    network = pyramid(depths=depths, fpn_dim=32, weights=file)
    features = network.model
    assert isinstance(features, iTPNFeatures)
    if ours:  # what a run of ours leaves
        file = str(tmp_path / "model.safetensors")
        save_weights({**features.state_dict(), "decoder_pred.weight": torch.ones(2)}, Path(file))
        network = pyramid(depths=depths, fpn_dim=32, weights=file)
        features = network.model
    for part in (features.backbone, features.neck):
        for key, value in part.state_dict().items():
            assert torch.equal(value, state[key]), key
    assert features.neck.depth == (2 if case == "tiny_pixel_mim" else 1)


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no stable address"):
        create("itpn_base", pretrained=True)
    with pytest.raises(InputError, match="no such file"):
        create("itpn_base", pretrained=True, pretrained_cfg_overlay={"file": "nowhere.pth"})
    with pytest.raises(InputError, match="no classifier"):
        create("itpn_base_pyramid", num_classes=3)
    with pytest.raises(InputError, match="global_pool"):
        create("itpn_base", global_pool="token")
    torch.save(filled("tiny_clip_cls"), tmp_path / "classifier.pth")
    with pytest.raises(InputError, match="holds no pyramid"):
        pyramid(depths=(2, 1, 5), weights=str(tmp_path / "classifier.pth"))
    with pytest.raises(InputError, match="does not fit the backbone"):
        pyramid(weights=str(tmp_path / "classifier.pth"))
