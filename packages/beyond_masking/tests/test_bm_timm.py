"""The encoders in timm's registry: read-outs, feature maps, pre-trained weights, detection features by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from beyond_masking import TokenPretrainModel, to_official
from vireo.backbones import MaskedViT, load_registrations
from vireo.backbones.positions import position_table
from vireo.backbones.vit import ViTFeatures
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError

NAME = "beyond_masking_vit_tiny"
SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


@pytest.fixture(autouse=True)
def _registered() -> None:
    assert "beyond_masking" in load_registrations()


def create(**options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(NAME, **{**SMALL, **options})


@pytest.fixture(scope="module")
def pretraining() -> TokenPretrainModel:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    return TokenPretrainModel("zoomed_in", 0.75, **SMALL, **sizes)


@pytest.fixture(params=["ours", "theirs"])
def checkpoint(request: Any, pretraining: TokenPretrainModel, tmp_path: Path) -> str:
    """What a run leaves behind, and the same weights under the authors' names."""
    if request.param == "ours":
        path = tmp_path / "model.safetensors"
        save_weights(pretraining.state_dict(), path)
    else:
        path = tmp_path / "checkpoint-299.pth"
        torch.save({"model": to_official(pretraining), "epoch": 299}, path)
    return str(path)


def encoder_is(network: MaskedViT, state: dict[str, Tensor], but: tuple[str, ...] = ("norm.", "fc_norm.")) -> None:
    """Everything below the read-out is that of ``state``."""
    own = network.state_dict()
    compared = [key for key in own if not key.startswith((*but, "head."))]
    assert len(compared) >= 25
    for key in compared:
        assert torch.equal(own[key], state[key]), key


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_sizes(size: str) -> None:
    with torch.device("meta"):
        network: Any = timm.create_model(f"beyond_masking_vit_{size}", num_classes=7)
        plain: Any = timm.create_model(f"vit_{size}_patch16_224", num_classes=7)
    assert [len(network.blocks), network.embed_dim, network.blocks[0].attn.num_heads] == [
        len(plain.blocks),
        plain.embed_dim,
        plain.blocks[0].attn.num_heads,
    ]


def test_classifier() -> None:
    network: Any = timm.create_model(NAME, num_classes=7, img_size=32, patch_size=8).eval()
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert isinstance(network.fc_norm, torch.nn.LayerNorm)
    network.reset_classifier(3)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_token_readout_has_learned_positions() -> None:
    network = create(num_classes=7, global_pool="token").eval()
    assert network.pos_embed.requires_grad
    assert network.pos_embed.shape == (1, 17, 24)
    images = torch.randn(2, 3, 32, 32)
    expected = network.head(network.forward_visible(images)[:, 0])
    torch.testing.assert_close(network(images), expected)


def test_maps() -> None:
    network = create(features_only=True, out_indices=(0, 1))
    maps = network(torch.zeros(2, 3, 32, 32))
    assert [m.shape for m in maps] == [(2, 24, 4, 4)] * 2
    assert network.feature_info.reduction() == [8, 8]
    whole = create(num_classes=0, global_pool="").eval()
    images = torch.randn(1, 3, 32, 32)
    final, intermediates = whole.forward_intermediates(images, norm=True)
    assert final.shape == (1, 16, 24)
    torch.testing.assert_close(intermediates[-1].flatten(2).transpose(1, 2), whole.forward_visible(images))


@pytest.mark.parametrize("global_pool", ["", "avg", "token"])
def test_pretrained(checkpoint: str, pretraining: TokenPretrainModel, global_pool: str) -> None:
    overlay = {"file": checkpoint}
    options = {"num_classes": 7, "global_pool": global_pool}
    network = create(pretrained=True, pretrained_cfg_overlay=overlay, **options)
    fresh = create(**options).state_dict()
    state = pretraining.encoder.state_dict()
    token = global_pool == "token"
    encoder_is(network, state, ("fc_norm.", "norm.", *(["cls_token", "pos_embed"] if token else [])))
    own = network.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own if key.startswith("norm."))
    assert all(torch.equal(own[key], fresh[key]) for key in own if key.startswith(("fc_norm.", "head.")))
    if token:
        assert own["pos_embed"].shape == (1, 17, 24)


def test_pretrained_maps(checkpoint: str, pretraining: TokenPretrainModel) -> None:
    overlay = {"file": checkpoint}
    network = create(features_only=True, out_indices=(1,), pretrained=True, pretrained_cfg_overlay=overlay).eval()
    images = torch.randn(1, 3, 32, 32)
    expected: Any = pretraining.encoder.eval().forward_intermediates(images, [1], intermediates_only=True)
    torch.testing.assert_close(network(images), expected)


def test_classifier_of_ours_comes_back_with_its_head(tmp_path: Path) -> None:
    trained = create(num_classes=7)
    torch.nn.init.normal_(trained.head.weight)
    save_weights(trained.state_dict(), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 7}
    loaded = create(num_classes=7, pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in trained.state_dict().items())


def test_no_published_weights() -> None:
    with pytest.raises(InputError, match=r"no weights of these encoders were published.*pretrained_cfg_overlay"):
        create(pretrained=True)


def test_no_such_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.safetensors: no such file"):
        create(pretrained=True, pretrained_cfg_overlay={"file": "nowhere.safetensors"})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 3}, r"missing: blocks\.2\."), ({"depth": 1}, r"unexpected: blocks\.1\.")],
)
def test_another_encoder(checkpoint: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create(pretrained=True, pretrained_cfg_overlay={"file": checkpoint}, **options)


def test_unknown_pool() -> None:
    with pytest.raises(InputError, match="unknown global_pool 'map'"):
        create(global_pool="map")


def test_detection_features(checkpoint: str, pretraining: TokenPretrainModel) -> None:
    """By name, with pre-trained weights, at the size of pre-training and at others."""
    overlay = {"file": checkpoint}
    features = ViTFeatures(NAME, out_channels=8, pretrained=True, pretrained_cfg_overlay=overlay, **SMALL).eval()
    body: Any = features.body
    encoder_is(body, pretraining.encoder.state_dict(), ())
    images = torch.randn(1, 3, 32, 32)
    tokens = pretraining.encoder.eval().forward_visible(images)
    torch.testing.assert_close(body.forward_features(images).flatten(), tokens.flatten())
    assert features.strides == (2, 4, 8, 16)
    maps = features(torch.randn(1, 3, 48, 64))
    assert [m.shape for m in maps] == [(1, 8, 48 // s, 64 // s) for s in features.strides]


def test_body_takes_an_encoders_state(pretraining: TokenPretrainModel) -> None:
    features = ViTFeatures(NAME, out_channels=8, **SMALL)
    features.load_body(pretraining.encoder.state_dict())
    encoder_is(features.body, pretraining.encoder.state_dict(), ())


def test_positions_of_larger_images_are_interpolated() -> None:
    """Twice the size: each new place has positions between those of its neighbours, not those of another row."""
    features = ViTFeatures(NAME, out_channels=8, **SMALL)
    body: Any = features.body
    small, large = body.pos_embed[0].view(4, 4, -1), body._pos_embed(torch.zeros(1, 8, 8, 24))[0].view(8, 8, -1)
    anew = position_table("sinusoid", (8, 8), 24)[0].view(8, 8, -1)
    off, off_anew = ((table.view(4, 2, 4, 2, -1).mean((1, 3)) - small).abs().mean() for table in (large, anew))
    assert off < 0.05 < 3 * off < off_anew


def test_unknown_transformer() -> None:
    with pytest.raises(InputError, match="unknown transformer 'vit_wrong'"):
        ViTFeatures("vit_wrong")
