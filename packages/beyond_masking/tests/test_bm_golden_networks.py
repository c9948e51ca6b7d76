"""Blocks, classifiers and key lists of the reference cases."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from bm_golden import close, fill_state_dict, load, load_json, stats, tensor
from bm_networks import load_official, official_state
from timm.models.vision_transformer import Block
from torch import nn

from beyond_masking import TokenPretrainModel, from_official, pretrain_vit_base, pretrain_vit_large, to_official
from vireo.backbones import MaskedViT
from vireo.backbones.masked_vit import without_key_bias


@pytest.mark.parametrize("layer_scale", [True, False])
def test_block(layer_scale: bool) -> None:
    norm = partial(nn.LayerNorm, eps=1e-6)
    block = Block(48, 4, qkv_bias=True, init_values=0.1 if layer_scale else None, norm_layer=norm).eval()  # type: ignore[arg-type]
    without_key_bias(block)
    names = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
    shapes = {names.get(key, key): value.clone() for key, value in block.state_dict().items() if "qkv.bias" not in key}
    official = fill_state_dict({**shapes, "attn.q_bias": torch.empty(48), "attn.v_bias": torch.empty(48)}, 209)
    block.load_state_dict(
        {key.removeprefix("x."): v for key, v in from_official({f"x.{k}": v for k, v in official.items()}).items()}
    )
    tokens, case = tensor("input.tokens", (2, 10, 48), 209), load("block")
    close(block(tokens), case["with_layer_scale" if layer_scale else "plain"], 1e-5)
    close(block.attn(tokens), case["attention"], 1e-5)


@pytest.mark.parametrize("readout", ["cls", "meanpool"])
def test_finetune(readout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """finetune_base_cls and finetune_base_meanpool."""
    monkeypatch.setattr("timm.models.vision_transformer.trunc_normal_", lambda tensor, **_: tensor, raising=False)
    case, state = load(f"finetune_base_{readout}"), official_state(f"finetune_base_{readout}", 209)
    model = MaskedViT(
        readout="cls" if readout == "cls" else "mean",
        num_classes=1000,
        positions="learned" if readout == "cls" else "sinusoid",
    ).eval()
    model.load_state_dict(model.resized(from_official(state)), strict=True)
    images = tensor("input.image", (2, 3, 224, 224), 209)
    with torch.no_grad():
        tokens = model.forward_features(images)
        read = model.forward_head(tokens, pre_logits=True)
        logits = model(images)
    if readout == "cls":
        close(tokens[:, ::13, ::37], case["features"], 1e-5)
        close(read[:, ::3], case["cls"], 1e-5)
    else:
        close(read[:, ::3], case["features"], 1e-5)
    close(logits[:, ::4], case["logits"], 1e-5)
    close(stats(logits), case["logits_stats"], 1e-5)
    assert to_official(model).keys() == state.keys()


@pytest.mark.parametrize(
    ("keys", "parameters"),
    [
        ("pretrain_zoomed_in_base", 93_325_440),
        ("pretrain_zoomed_out_base", 93_325_440),
        ("pretrain_distorted_base", 93_325_440),
        ("pretrain_blurred_base", 93_325_440),
        ("pretrain_decolorized_base", 92_932_224),
        ("pretrain_zoomed_in_large", 165_460_224),
        ("pretrain_zoomed_out_large", 329_209_088),
    ],
)
def test_key_lists_load_strictly_and_come_back(keys: str, parameters: int) -> None:
    shapes = load_json(f"{keys}.keys")
    degradation = keys.removeprefix("pretrain_").rpartition("_")[0]
    with torch.device("meta"):
        official = {key: torch.empty(entry["shape"]) for key, entry in shapes.items()}
    sizes = {"depth": 12, "decoder_depth": 4} if keys == "pretrain_zoomed_in_large" else {}  # as it was released
    with torch.device("meta"):
        model = (pretrain_vit_large if keys.endswith("large") else pretrain_vit_base)(degradation, **sizes)
    own = to_official(model)
    unused = {"encoder.cls_token"} & official.keys()
    assert {key: tuple(v.shape) for key, v in own.items()} == {
        key: tuple(v.shape) for key, v in official.items() if key not in unused
    }
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    key_biases = sum(module.bias.numel() // 3 for name, module in model.named_modules() if name.endswith("attn.qkv"))
    assert trained - key_biases + sum(official[key].numel() for key in unused) == parameters + 768 * len(unused) * (
        "base" in keys
    )


def test_conversion_keeps_every_value() -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    sizes |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    one, other = (TokenPretrainModel("none", **sizes) for _ in range(2))  # type: ignore[arg-type]
    for block in one.encoder.blocks:
        nn.init.normal_(block.attn.qkv.bias)  # type: ignore[union-attr, arg-type]
        block.attn.qkv.bias.data.chunk(3)[1].zero_()  # type: ignore[union-attr, operator]
    load_official(other, to_official(one))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
