"""The transformer of ViTDet: attention against the plain formula, windows, positions, and where it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from g2sd import vitdet
from g2sd.mae import build_encoder, init_weights
from g2sd.official import load_encoder
from g2sd.vitdet import (
    ViTDet,
    ViTDetPyramid,
    default_global_blocks,
    merged_windows,
    relative_attention,
    relative_vectors,
    windows_of,
)
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError


def plain_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Token by token, as section 3.6 says it."""
    height, width = len(rows), len(columns)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    for i in range(height * width):
        for j in range(height * width):
            of_pair = rows[i // width, j // width] + columns[i % width, j % width]
            logits[..., i, j] = logits[..., i, j] + q[..., i, :] @ of_pair
    return logits.softmax(-1) @ v


@pytest.mark.parametrize("most_with_bias", [1024, 0], ids=["bias", "longer queries"])
def test_attention_is_the_plain_one(most_with_bias: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitdet, "_MOST_WITH_BIAS", most_with_bias)
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 6, 8, requires_grad=True) for _ in range(3)]
    tables = [torch.randn(5, 8, requires_grad=True), torch.randn(7, 8, requires_grad=True)]
    outputs = []
    q, k, v = inputs
    for attention in (plain_attention, relative_attention):
        rows, columns = relative_vectors(tables[0], 2), relative_vectors(tables[1], 3)  # both interpolated
        found = attention(q, k, v, rows, columns)
        outputs.append([found, *torch.autograd.grad(found.square().sum(), [*inputs, *tables])])
    for expected, found in zip(*outputs):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_vectors_of_differences() -> None:
    table = torch.arange(5.0)[:, None]
    assert relative_vectors(table, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_windows() -> None:
    x = torch.randn(2, 5, 7, 3)
    windows = windows_of(x, 4)
    assert windows.shape == (2 * 2 * 2, 4, 4, 3)
    assert torch.equal(windows[1, :, :3], x[0, :4, 4:])  # the right one of the first image
    assert not windows[1, :, 3].any()
    assert torch.equal(merged_windows(windows, (5, 7)), x)


@torch.no_grad()
def test_windows_and_whole_maps() -> None:
    """A change in one corner reaches the other through the global block alone."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[..., :8, :8] += 1
    for global_blocks, reached in (((), False), ((1,), True)):
        body = ViTDet(32, 8, 16, 2, 2, window=2, global_blocks=global_blocks, pretrain_size=32).eval()
        moved = (body(images) - body(changed)).abs().amax((0, 1)) > 1e-6
        assert moved[:2, :2].all()
        assert bool(moved[2:, 2:].any()) is reached


def test_global_blocks() -> None:
    assert default_global_blocks(12) == {2, 5, 8, 11}
    assert default_global_blocks(24) == {5, 11, 17, 23}
    assert default_global_blocks(2) == {0, 1}
    assert default_global_blocks(1) == {0}
    assert [block.window for block in ViTDet(224, embed_dim=8, num_heads=2, depth=4).blocks] == [0, 0, 0, 0]
    assert [b.window for b in ViTDet(224, embed_dim=8, num_heads=2, depth=8, window=7).blocks] == [7, 0] * 4


@torch.no_grad()
def test_maps_and_recomputed_blocks() -> None:
    torch.manual_seed(0)
    pyramid = ViTDetPyramid(ViTDet(64, 16, 16, 2, 2, pretrain_size=32), 8)
    images = torch.randn(1, 3, 64, 64)
    maps = pyramid(images)
    assert {name: tuple(map_.shape[1:]) for name, map_ in maps.items()} == {
        name: (8, 64 // s, 64 // s) for name, s in zip(("0", "1", "2", "3", "pool"), pyramid.strides)
    }
    pyramid.body.grad_checkpointing = True
    with torch.enable_grad():
        pyramid.train()(images)["0"].sum().backward()
    assert all(p.grad is not None for name, p in pyramid.body.named_parameters())


def test_sizes_that_do_not_fit() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"img_size": 100}, "100 pixels are not divided by patches of 16"),
        ({"img_size": 64, "embed_dim": 30, "num_heads": 3}, "not divided by 3 heads and by 4"),
        ({"img_size": 64, "depth": 2, "global_blocks": (2,)}, "there is no block 2"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            ViTDet(**options)
    with pytest.raises(InputError, match="20x32 are not divided by patches of 16"):
        ViTDet(64, 16, 8, 1, 2)(torch.zeros(1, 3, 20, 32))


def test_starts_from_an_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(32, 8, 3, 16, 2, 2)
    init_weights(encoder)
    state = encoder.state_dict()
    save_weights(state, tmp_path / "encoder.safetensors")
    for side in (32, 48):
        body = ViTDet(64, 8, 16, 2, 2, pretrain_size=side)
        report = load_encoder(body, tmp_path / "encoder.safetensors", fresh=("rel_pos_",))
        own = body.state_dict()
        assert {key for key in own if "rel_pos" in key} == set(report.fresh)
        shared = [key for key in own if key in state and own[key].shape == state[key].shape]
        assert all(torch.equal(own[key], state[key]) for key in shared)
        assert ("pos_embed" in shared) is (side == 32)
        assert {key.split(".")[0] for key in report.left_out} == {"cls_token", "norm"}
    with pytest.raises(InputError, match="does not fit"):
        load_encoder(ViTDet(64, 8, 24, 2, 2), tmp_path / "encoder.safetensors", fresh=("rel_pos_",))
