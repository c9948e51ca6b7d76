"""MAE's released checkpoints: their key lists, written out here for a tiny network, load strictly or are refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vireo.backbones import MaskedViT, TokenDecoder, load_mae, random_masking
from vireo.backbones.positions import position_table
from vireo.errors import InputError

DIM, DEPTH, GRID, PATCH = 24, 2, 4, 4
WIDTH, DECODER_DEPTH = 16, 3
SIZES: dict[str, Any] = {"patch_size": PATCH, "embed_dim": DIM, "depth": DEPTH, "num_heads": 3}


def block_shapes(prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
    weights = {
        "attn.qkv": (3 * dim, dim),
        "attn.proj": (dim, dim),
        "mlp.fc1": (4 * dim, dim),
        "mlp.fc2": (dim, 4 * dim),
        "norm1": (dim,),
        "norm2": (dim,),
    }
    return {
        f"{prefix}.{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in weights.items()
        for kind in ("weight", "bias")
    }


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {key: torch.randn(shape, generator=generator) / 5 for key, shape in shapes.items()}


def encoder_state(grid: int = GRID) -> dict[str, Tensor]:
    """As in ``mae_pretrain_vit_base.pth``."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, DIM),
        "patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
        "norm.weight": (DIM,),
        "norm.bias": (DIM,),
    }
    for i in range(DEPTH):
        shapes |= block_shapes(f"blocks.{i}", DIM)
    return {**filled(shapes), "pos_embed": position_table("sincos_2d", (grid, grid), DIM, 1)}


def full_state(grid: int = GRID) -> dict[str, Tensor]:
    """As in ``mae_pretrain_vit_base_full.pth`` and ``mae_visualize_vit_base.pth``."""
    values = PATCH**2 * 3
    shapes: dict[str, tuple[int, ...]] = {
        "mask_token": (1, 1, WIDTH),
        "decoder_embed.weight": (WIDTH, DIM),
        "decoder_embed.bias": (WIDTH,),
        "decoder_norm.weight": (WIDTH,),
        "decoder_norm.bias": (WIDTH,),
        "decoder_pred.weight": (values, WIDTH),
        "decoder_pred.bias": (values,),
    }
    for i in range(DECODER_DEPTH):
        shapes |= block_shapes(f"decoder_blocks.{i}", WIDTH)
    table = position_table("sincos_2d", (grid, grid), WIDTH, 1)
    return {**encoder_state(grid), **filled(shapes), "decoder_pos_embed": table}


def finetuned_state() -> dict[str, Tensor]:
    """As in ``mae_finetuned_vit_base.pth``: mean read-out, positions trained on."""
    state = encoder_state()
    state = {key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: v for key, v in state.items()}
    trained = state["pos_embed"] + 0.05 * torch.randn(1, 1 + GRID**2, DIM)
    return {**state, "pos_embed": trained, **filled({"head.weight": (7, DIM), "head.bias": (7,)})}


def written(folder: Path, state: dict[str, Tensor]) -> Path:
    path = folder / "mae.pth"
    torch.save({"model": state, "args": argparse.Namespace(lr=1.0)}, path)
    return path


def encoder(grid: int = GRID, **options: Any) -> MaskedViT:
    settings: dict[str, Any] = {"class_token": True, "positions": "sincos_2d", "qkv_bias": "qkv", **SIZES}
    return MaskedViT(grid * PATCH, **{**settings, **options})


def decoder(grid: int = GRID) -> TokenDecoder:
    options: dict[str, Any] = {"prefix_tokens": 1, "positions": "sincos_2d", "qkv_bias": "qkv", "embed_bias": True}
    return TokenDecoder(DIM, PATCH**2 * 3, (grid, grid), WIDTH, DECODER_DEPTH, 2, **options)


def test_number_of_tensors_of_the_released_files() -> None:
    """150 of the encoder, 254 in all, 152 of a classifier: for 12 and 8 blocks of 12 tensors each."""
    assert len(encoder_state()) == 150 - 12 * (12 - DEPTH)
    assert len(full_state()) == 254 - 12 * (12 - DEPTH) - 12 * (8 - DECODER_DEPTH)
    assert len(finetuned_state()) == 152 - 12 * (12 - DEPTH)


@pytest.mark.parametrize("state", [encoder_state(), full_state()], ids=["encoder", "full"])
def test_encoder_loads(tmp_path: Path, state: dict[str, Tensor]) -> None:
    network = encoder()
    load_mae(network, written(tmp_path, state))
    own = network.state_dict()
    assert own.keys() == encoder_state().keys()
    assert all(torch.equal(own[key], state[key]) for key in own)


@pytest.mark.parametrize("grid", [GRID, GRID + 2])
def test_whole_model_loads(tmp_path: Path, grid: int) -> None:
    """Also for images of another size than the checkpoint's."""
    network, light = encoder(grid), decoder(grid)
    state = full_state()
    load_mae(network, written(tmp_path, state), light)
    own = light.state_dict()
    theirs = {
        {"decoder_embed": "embed", "decoder_blocks": "blocks", "decoder_norm": "norm", "decoder_pred": "head"}[
            key.split(".")[0]
        ]
        + key[key.index(".") :]: value
        for key, value in state.items()
        if key.startswith("decoder_") and "." in key
    }
    theirs |= {"mask_token": state["mask_token"], "pos_embed": position_table("sincos_2d", (grid, grid), WIDTH, 1)}
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    mask = random_masking(torch.rand(2, grid**2), 0.75)
    tokens = network.forward_visible(torch.randn(2, 3, grid * PATCH, grid * PATCH), mask.ids_keep)
    assert light(tokens, mask).shape == (2, grid**2, PATCH**2 * 3)


def test_finetuned_classifier_loads(tmp_path: Path) -> None:
    network = encoder(readout="mean", num_classes=7, positions="learned")
    state = finetuned_state()
    load_mae(network, written(tmp_path, state))
    own = network.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)
    network.eval()
    images = torch.randn(2, 3, GRID * PATCH, GRID * PATCH)
    mean = network.forward_visible(images)[:, 1:].mean(1)  # of the patches only
    expected = network.head(network.fc_norm(mean))
    torch.testing.assert_close(network(images), expected)


def test_trained_positions_do_not_pass_for_fixed_ones(tmp_path: Path) -> None:
    """A classifier whose positions were left as they were fits both kinds."""
    network = encoder(readout="mean", num_classes=7)
    with pytest.raises(InputError, match=r"stored positions .* are not the fixed sincos_2d ones.*or with learned ones"):
        load_mae(network, written(tmp_path, finetuned_state()))
    untouched = {**finetuned_state(), "pos_embed": encoder_state()["pos_embed"]}
    load_mae(network, written(tmp_path, untouched))
    assert torch.equal(network.state_dict()["head.weight"], untouched["head.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.attn.qkv.bias": None}, r"1 missing: blocks\.1\.attn\.qkv\.bias"),
        ({"blocks.2.norm1.weight": torch.zeros(DIM)}, r"1 unexpected: blocks\.2\.norm1\.weight"),
        ({"norm.weight": torch.zeros(5)}, r"norm\.weight \(file \(5,\), model \(24,\)\)"),
        ({"decoder_blocks.2.mlp.fc1.weight": None}, r"missing: blocks\.2\.mlp\.fc1\.weight"),
        ({"decoder_blocks.3.norm1.bias": torch.zeros(WIDTH)}, r"unexpected: blocks\.3\.norm1\.bias"),
        ({"mask_token": None}, r"missing: mask_token"),
        ({"decoder_pos_embed": torch.zeros(1, 1 + GRID**2, WIDTH)}, "stored positions"),
    ],
)
def test_keys_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = {key: value for key, value in {**full_state(), **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        load_mae(encoder(), written(tmp_path, state), decoder())


def test_no_decoder_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encoder without a decoder"):
        load_mae(encoder(), written(tmp_path, encoder_state()), decoder())
