"""The released networks in timm's registry: sizes, classifiers, maps, weights of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from if_nas.timm_models import SIZES
from vireo.backbones import load_registrations, pyramid_backbone
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError


@pytest.fixture(autouse=True)
def _registered() -> None:
    assert "if_nas" in load_registrations()


def create(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def test_names() -> None:
    assert set(SIZES) <= set(timm.list_models("*nas_l*"))
    with torch.device("meta"):
        fitted, script = create("ifnas_l8"), create("ifnas_l8_c64", num_classes=7)
    assert (fitted.width, script.width) == (56, 64)
    assert (fitted.get_classifier().out_features, script.get_classifier().out_features) == (1000, 7)
    assert fitted.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert round(sum(parameter.numel() for parameter in fitted.parameters()) / 1e6, 2) == 4.92


def test_what_timm_asks_of_a_classifier() -> None:
    network = create("ifnas_l8_keep1", width=4, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    last, maps = network.forward_intermediates(images)
    torch.testing.assert_close(network.forward_head(last), network(images))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 8, 8), (2, 12, 4, 4), (2, 16, 2, 2)]
    network.reset_classifier(0)
    assert network(images).shape == (2, 64)
    network.reset_classifier(3)
    assert network(images).shape == (2, 3)
    with pytest.raises(InputError, match="another pooling"):
        network.reset_classifier(3, "max")
    with pytest.raises(InputError, match="another pooling"):
        create("ifnas_l8", global_pool="max")
    for option in ("drop_rate", "drop_path_rate", "norm_layer"):
        with pytest.raises(InputError, match=f"ifnas_l8, {option}: the networks have no such option"):
            create("ifnas_l8", **{option: 0.1})
    network.set_grad_checkpointing(False)
    with pytest.raises(InputError, match="gradient checkpointing is not supported"):
        network.set_grad_checkpointing()
    with pytest.raises(InputError, match="three channels"):
        create("ifnas_l8", in_chans=1)
    with pytest.raises(InputError, match="NCHW"):
        network.forward_intermediates(images, output_fmt="NHWC")


def test_maps_for_detectors() -> None:
    network = pyramid_backbone("ifnas_l8_keep1", strides=(8, 16, 32), width=4).train()
    maps: Any = network(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 8, 12), (2, 12, 4, 6), (2, 16, 2, 3)]
    assert network.feature_info.channels() == [4, 12, 16]  # type: ignore[operator, union-attr]
    assert network.feature_info.reduction() == [8, 16, 32]  # type: ignore[operator, union-attr]
    sum(m.square().sum() for m in maps).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_fewer_maps() -> None:
    network = create("ifnas_l8_keep1", width=4, features_only=True, out_indices=(1,)).eval()
    assert network.feature_info.reduction() == [16]
    assert [tuple(m.shape) for m in network(torch.randn(1, 3, 64, 64))] == [(1, 12, 4, 4)]


def test_maps_of_networks_with_nodes_that_nothing_reads(tmp_path: Path) -> None:
    """Every parameter gets a gradient; weights of the whole network fit what is left of it."""
    whole = create("ifnas_l8", width=4).eval()
    file = tmp_path / "model.safetensors"
    save_weights(whole.state_dict(), file)
    for indices in ((0, 1, 2), (0,), (1,)):
        weights: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
        network = create("ifnas_l8", width=4, features_only=True, out_indices=indices, **weights).eval()
        images = torch.randn(1, 3, 64, 64)
        maps = network(images)
        wanted = whole.stage_features(images)
        for index, found in zip(indices, maps):
            torch.testing.assert_close(found, wanted[index])
        sum(found.sum() for found in maps).backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_no_weights_were_released() -> None:
    with pytest.raises(InputError, match=r"ifnas_l8: no weights were released\. set pretrained=False"):
        create("ifnas_l8", pretrained=True)


def test_weights_of_ones_own(tmp_path: Path) -> None:
    trained = create("ifnas_l8_keep1", width=4, num_classes=5)
    file = tmp_path / "model.safetensors"
    save_weights(trained.state_dict(), file)
    options: dict[str, Any] = {"width": 4, "pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
    torch.manual_seed(1)
    same = timm.create_model("ifnas_l8_keep1", num_classes=5, **options).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in trained.state_dict().items())
    other = timm.create_model("ifnas_l8_keep1", num_classes=3, **options)
    assert torch.equal(other.state_dict()["stem.0.weight"], trained.stem[0].weight)
    maps = pyramid_backbone("ifnas_l8_keep1", strides=(8, 16, 32), width=4, weights=str(file)).state_dict()
    assert torch.equal(maps["model.stem.0.weight"], trained.stem[0].weight)
    with pytest.raises(InputError, match="does not fit"):
        create("ifnas_l6_keep1", **options)
