"""Fast-iTPN: images of any size, precision of the logits, its maps under a pyramid, clear errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from itpn.attention import set_fused
from itpn.fast import FastITPN, cells_to_units
from itpn.fast_blocks import FastAttention
from itpn.features import iTPNFeatures
from itpn.neck import PyramidNeck, units_to_map
from itpn.positions import resample_positions
from vireo.errors import InputError

TINY: dict[str, Any] = {"img_size": 64, "embed_dim": 32, "depths": (1, 1, 2), "num_heads": 2}


def tiny(**options: Any) -> FastITPN:
    torch.manual_seed(0)
    return FastITPN(**{**TINY, **options}).eval()


def images(height: int = 64, width: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(64, 64), (96, 32), (48, 80)], ids=str)
@torch.no_grad()
def test_plain_and_fused_attention_agree_on_any_grid(size: tuple[int, int]) -> None:
    network, found = tiny(), []
    for fused in (True, False):
        set_fused(network, fused)
        found.append(network.forward_features(images(*size)))
    assert found[0].shape == (2, size[0] * size[1] // 256, 32)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_nothing_crosses_units_before_stage_3() -> None:
    network, changed = tiny(), images()
    changed[:, :, 16:32, 48:64] += 1.0  # unit (1, 3) of 4 x 4
    for of_one, of_other in zip(network.forward_early(images()), network.forward_early(changed)):
        moved = (of_one != of_other).flatten(2).any(2)
        assert moved.nonzero()[:, 1].tolist() == [7, 7]


@torch.no_grad()
def test_positions_keep_the_class_token_apart() -> None:
    network = tiny(cls_token=True)
    found = network.positions((6, 2))
    assert torch.equal(found[:, :1], network.pos_embed[:, :1])
    assert torch.equal(found[:, 1:], resample_positions(network.pos_embed[:, 1:], (4, 4), (6, 2), "size"))
    assert network.forward_features(images(96, 32)).shape == (2, 13, 32)
    assert network.forward_units(images(96, 32)).x16.shape == (2, 12, 32)


def test_cells_in_quarters_are_inner_grids() -> None:
    grid = torch.arange(16).reshape(4, 4)
    quarters = [2, 2, 2, 2]
    cells = grid.reshape(quarters).permute(0, 2, 1, 3).flatten()[None, None, :, None]
    assert torch.equal(cells_to_units(cells)[0, 0, :, :, 0], grid)


@torch.no_grad()
def test_early_stages_are_the_convolutions() -> None:
    network = tiny()
    f4, f8, _ = network.forward_early(images())
    merge: Any = network.blocks[1]
    mapped = units_to_map(cells_to_units(f4), (4, 4))
    normed = merge.norm(mapped.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = network.blocks[2](merge(f4))
    torch.testing.assert_close(f8, expected)
    merged = units_to_map(cells_to_units(merge(f4)), (4, 4))
    torch.testing.assert_close(merge.reduction(normed), merged, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_logits_in_float32_whatever_the_precision() -> None:
    torch.manual_seed(0)
    attention = FastAttention(32, 2, separate=True, attn_fp32=True, table_grid=None)
    x = 8 * torch.randn(1, 12, 32)
    with torch.autocast("cpu", torch.bfloat16):
        q, k, v = (part.unflatten(2, (2, 16)).transpose(1, 2) for part in attention._projected(x))
        found = attention(x)
    assert q.dtype == found.dtype == torch.bfloat16
    logits = q.float() @ k.float().transpose(2, 3) / 4
    rounded = (q @ k.transpose(2, 3) / 4).float()
    expected, coarse = ((part.softmax(-1).bfloat16() @ v).transpose(1, 2).flatten(2) for part in (logits, rounded))
    with torch.autocast("cpu", torch.bfloat16):
        expected, coarse = attention.proj(expected), attention.proj(coarse)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, coarse)


@torch.no_grad()
def test_under_a_pyramid() -> None:
    network: Any = tiny()
    features = iTPNFeatures(network, PyramidNeck(network.dims, 16)).eval()
    assert [tuple(m.shape[1:]) for m in features.maps(images(64, 96))] == [
        (16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3), (16, 1, 1)
    ]  # fmt: skip


@torch.no_grad()
def test_compiles_as_one_graph() -> None:
    network = tiny(num_classes=3)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), network(images()))


@torch.no_grad()
def test_exports() -> None:
    network = tiny(num_classes=3)
    program = torch.export.export(network, (images(),))
    torch.testing.assert_close(program.module()(images()), network(images()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 6}, "inner grid"),
        ({"embed_dim": 30}, "do not suit"),
        ({"num_heads": 5}, "do not suit"),
        ({"img_size": 40}, "not divided by units"),
        ({"rel_pos": "spline"}, "unknown relative positions"),
        ({"rel_pos": "bias"}, "need the class token"),
    ],
)
def test_faults_of_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**options)


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({}, (64, 40), "not divided by units"),
        ({}, (8, 8), "not divided by units"),
        ({"cls_token": True, "rel_pos": "shared"}, (96, 64), "relative positions of"),
        ({"patch_norm": True}, (64, 64), "runs along 16 columns"),
    ],
)
def test_faults_of_images(options: dict[str, Any], size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**options)(images(*size))


def test_faults_of_timms_interface() -> None:
    with pytest.raises(InputError, match="unknown pooling"):
        tiny(num_classes=3).reset_classifier(3, global_pool="token")
    with pytest.raises(InputError, match="not normalised"):
        tiny().forward_intermediates(images(), norm=True)
