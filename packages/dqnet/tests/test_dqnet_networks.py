"""Sizes of the networks, every arm on images of any shape, other backbones, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dqnet import DQnet, GlobalViT, QueriedResNet, SimpleFusionHead
from dqnet.heads import QueryMapHead, bicubic
from dqnet.losses import structure_losses
from dqnet.model import ARMS
from vireo.errors import InputError

SMALL: dict[str, Any] = {
    "image_size": 64,
    "vit": {"name": "vit_tiny_patch16", "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 4},
    "resnet": {"depth": 50, "layers": [1, 1, 1, 1], "width": 16, "stem_pool": False},
    "window": 4,
    "heads": 4,
    "head_width": 48,
}


def number(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(module: nn.Module, *inputs: Any) -> float:
    """In units of 1e9."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 2e9


def test_published_sizes() -> None:
    with torch.device("meta"):
        model, plain, images = DQnet(), QueriedResNet(query_dim=None), torch.empty(1, 3, 384, 384)
    assert model.vit is not None
    assert model.resnet is not None
    queries: Any = model.resnet.queries
    assert number(model) == 127_667_649
    assert number(model.vit) == 86_090_496
    assert number(model.resnet.trunk) == 23_508_032
    assert [number(query.query) for query in queries] == 4 * [2_366_016]
    assert sum(number(query.to_grid) for query in queries) == 1_428_480
    assert sum(number(query.from_grid) for query in queries) == 3_623_680
    assert sum(number(query.norm) + number(query.stage_norm) for query in queries) == 9_856
    assert number(model.head) == 3_543_041
    assert multiply_adds(model.vit, images) == pytest.approx(55.5, abs=0.05)
    assert multiply_adds(plain, images) == pytest.approx(12.0, abs=0.05)
    maps = model.maps(images)
    resizing = 0.52  # as products of matrices, which the authors' count leaves out
    assert multiply_adds(model.head, maps) == pytest.approx(23.0 + resizing, abs=0.05)
    # the authors compute 900 places of padded maps for 2.28, of which 576 are real
    assert multiply_adds(queries[0].query, maps[-1], maps[-1]) == pytest.approx(1.44, abs=0.005)
    assert multiply_adds(model, images) == pytest.approx(103.0 + resizing - 4 * (2.28 - 1.44), abs=0.1)


@pytest.mark.parametrize(
    ("arm", "millions"), [("gate", 1.43), ("sum", 1.43), ("concat", 1.11), ("vit", 0.50), ("resnet", 0.62)]
)
def test_sizes_of_the_small_networks(arm: Any, millions: float) -> None:
    with torch.device("meta"):
        assert number(DQnet(arm, **SMALL)) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("arm", ARMS)
def test_every_parameter_of_every_arm_takes_part_on_images_of_any_shape(arm: Any) -> None:
    torch.manual_seed(0)
    model = DQnet(arm, **SMALL)
    assert (model.vit is None, model.resnet is None) == (arm == "resnet", arm == "vit")
    for shape in ((2, 3, 64, 64), (1, 3, 48, 80)):
        images, masks = torch.randn(shape), torch.rand(shape[0], 1, *shape[2:])
        logits = model(images)
        assert logits.shape == masks.shape
        sum(structure_losses(logits, masks).values()).backward()  # type: ignore[union-attr] # no empty sum
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_no_window_is_the_whole_grid() -> None:
    with torch.device("meta"):
        model = DQnet(**{**SMALL, "window": None})
    assert {query.query.window for query in model.resnet.queries} == {8}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("vit", "depth", "channels"),
    [("vit_small_patch16", 18, (64, 128, 256, 512)), ("vit_tiny_patch16", 34, (64, 128, 256, 512))],
)
def test_lighter_backbones(vit: str, depth: int, channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = DQnet(image_size=64, vit=vit, resnet=depth, window=3, heads=3, head_width=16).eval()
    assert model.resnet is not None
    assert model.resnet.channels == channels
    assert model.resnet.standard
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 64, 96)).shape == (1, 1, 64, 96)


def test_compiles_as_one_graph_and_exports() -> None:
    torch.manual_seed(0)
    model, images = DQnet(**SMALL).eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, backend="eager")(images)
        exported = torch.export.export(model, (images,)).module()(images)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(exported, expected)


def test_saved_and_loaded(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = DQnet("sum", **SMALL).eval()
    model.save_pretrained(tmp_path)
    again, images = DQnet.from_pretrained(tmp_path), torch.randn(1, 3, 64, 64)
    assert again.arm == "sum"
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: DQnet("product"), "unknown arm 'product'"),  # type: ignore[arg-type]
        (lambda: DQnet(vit="vit_bas_patch16"), "did you mean vit_base_patch16"),
        (lambda: QueriedResNet(49), "depth 49"),
        (lambda: DQnet(vit={"name": "vit_tiny_patch16", "patch_size": 32}, image_size=64), "is 8 times as fine"),
        (lambda: QueriedResNet(layers=(1, 2, 3), query_dim=None), r"layers \[1, 2, 3\]"),
        (lambda: QueriedResNet(query_dim=None)(torch.zeros(1, 3, 32, 32), torch.zeros(1, 8, 2, 2)), "a plain ResNet"),
        (lambda: SimpleFusionHead((8, 8, 8)), "3 maps"),
        (lambda: GlobalViT(32, depth=1)(torch.zeros(1, 3, 40, 32)), "images of 40x32 pixels for patches of 16"),
        (lambda: structure_losses(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)), "for masks"),
        (lambda: structure_losses(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), kernel=4), "a kernel of 4"),
        (lambda: structure_losses(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), "sum"), "unknown bce"),  # type: ignore[arg-type]
    ],
)
def test_mistakes(build: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        build()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(48, 20), (24, 10), (5, 13), (12, 10), (1, 10)])
def test_resizing_is_that_of_torch(size: tuple[int, int], align_corners: bool) -> None:
    x = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.interpolate(x, size=size, mode="bicubic", align_corners=align_corners)
    torch.testing.assert_close(bicubic(x, size, align_corners), expected, atol=1e-12, rtol=0)
    found = bicubic(x.float(), size, align_corners)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bicubic(x.float(), size, align_corners), found)


def test_query_map_head_enlarges_by_the_patch_size() -> None:
    assert QueryMapHead(12, 4, stride=8)([torch.zeros(1, 12, 3, 5)]).shape == (1, 1, 24, 40)
