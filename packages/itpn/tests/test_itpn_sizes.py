"""Parameters and multiplications of every published size (sections 3.1, 3.3, 3.6, 3.7, 3.9 and 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from itpn.attention import set_fused
from itpn.distill import FeatureDistillPretrain
from itpn.features import iTPNFeatures
from itpn.neck import PyramidNeck
from itpn.pixel import MaskedPyramidAutoencoder
from itpn.sizes import itpn_backbone

CLIP: dict[str, Any] = {"rel_pos": "bias", "init_values": 0.1}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def gigamacs(model: nn.Module, *inputs: torch.Tensor) -> float:
    """Multiplications with addition of a forward pass, in thousand millions: matrix products and convolutions."""
    set_fused(model, False)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(*inputs)
    return counter.get_total_flops() / 2e9


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def image(side: int, other: int | None = None) -> torch.Tensor:
    return torch.empty(1, 3, side, other or side, device="meta")


def pyramid(name: str, dim: int = 256, depth: int = 1, **options: Any) -> iTPNFeatures:
    backbone: Any = itpn_backbone(name, **options)
    return iTPNFeatures(backbone, PyramidNeck(backbone.dims, dim, depth))


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("itpn_base", {"rel_pos": "bias"}, 78_557_992),
        ("itpn_base", CLIP, 78_583_720),
        ("itpn_large", {"rel_pos": "bias"}, 288_493_576),
        ("itpn_large", CLIP, 288_556_168),
        ("fast_itpn_tiny", {}, 24_219_976),
        ("fast_itpn_small", {}, 39_902_920),
        ("fast_itpn_base", {}, 84_825_192),
        ("fast_itpn_large", {}, 312_017_320),
    ],
)
def test_parameters_of_classifiers(name: str, options: dict[str, Any], count: int) -> None:
    assert parameters(built(lambda: itpn_backbone(name, num_classes=1000, **options))) == count


@pytest.mark.parametrize(("name", "millions"), [("hivit_tiny", 19), ("hivit_small", 38), ("hivit_base", 66)])
def test_parameters_of_hivit(name: str, millions: int) -> None:
    network = built(lambda: itpn_backbone(name, num_classes=1000, rel_pos="bias"))
    assert parameters(network) / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("itpn_base", {}, 81_552_000),
        ("itpn_base", {"init_values": 0.1}, 81_577_728),
        ("itpn_large", {"init_values": 0.1, "rel_pos": "decomposed"}, 291_599_296),
        ("itpn_base", {"rel_pos": "bias", "img_size": 512, "pos_size": 224, "depth": 2}, 83_366_208),
    ],
)
def test_parameters_of_pyramids(name: str, options: dict[str, Any], count: int) -> None:
    assert parameters(built(lambda: pyramid(name, **options))) == count


@pytest.mark.parametrize(("name", "count"), [("itpn_base", 108_493_344), ("itpn_large", 318_339_808)])
def test_parameters_of_pre_training_with_pixels(name: str, count: int) -> None:
    def make() -> nn.Module:
        backbone: Any = itpn_backbone(name)
        return MaskedPyramidAutoencoder(backbone, PyramidNeck(backbone.dims, depth=2))

    assert parameters(built(make)) == count


@pytest.mark.parametrize(
    ("name", "side", "count", "expected"),
    [("itpn_base", 224, 88_738_288, 24.0), ("itpn_large", 224, 307_452_904, 69.2), ("itpn_large", 256, None, 91.4)],
)
def test_pre_training_with_a_teacher(name: str, side: int, count: int | None, expected: float) -> None:
    def make() -> nn.Module:
        backbone: Any = itpn_backbone(name, img_size=side, **CLIP)
        # the counts of the specification are of 512 values for base, 768 for large
        return FeatureDistillPretrain(backbone, PyramidNeck(backbone.dims), 512 if name == "itpn_base" else 768)

    model = built(make)
    assert count is None or parameters(model) == count
    units = (side // 16) ** 2
    mask = torch.empty(1, units, dtype=torch.bool, device="meta")
    target = torch.empty(1, units, 512 if name == "itpn_base" else 768, device="meta")
    assert gigamacs(model, image(side), mask, target) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("name", "options", "side", "expected"),
    [
        ("itpn_base", {"rel_pos": "bias"}, 224, 17.82),
        ("itpn_large", {"rel_pos": "bias"}, 224, 61.12),
        ("fast_itpn_tiny", {}, 224, 5.34),
        ("fast_itpn_tiny", {}, 384, 17.71),
        ("fast_itpn_tiny", {}, 512, 35.71),
        ("fast_itpn_small", {}, 224, 8.93),
        ("fast_itpn_small", {}, 384, 29.60),
        ("fast_itpn_small", {}, 512, 59.67),
        ("fast_itpn_base", {}, 224, 19.05),
        ("fast_itpn_base", {}, 512, 120.36),
        ("fast_itpn_large", {}, 224, 65.74),
    ],
)
def test_multiplications_of_classifiers(name: str, options: dict[str, Any], side: int, expected: float) -> None:
    network = built(lambda: itpn_backbone(name, img_size=side, num_classes=1000, **options))
    assert gigamacs(network, image(side)) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({}, (224, 224), 22.5),
        ({"rel_pos": "bias", "img_size": 512, "pos_size": 224, "depth": 2}, (512, 512), 149.2),
        ({}, (800, 1280), 833.0),
    ],
)
def test_multiplications_of_pyramids(options: dict[str, Any], size: tuple[int, int], expected: float) -> None:
    found = gigamacs(built(lambda: pyramid("itpn_base", **options)), image(*size))
    assert found == pytest.approx(expected, abs=0.06 if expected < 800 else 0.6)


@pytest.mark.parametrize(("name", "expected"), [("itpn_base", 11.3), ("itpn_large", 21.9)])
def test_multiplications_of_pre_training_with_pixels(name: str, expected: float) -> None:
    def make() -> nn.Module:
        backbone: Any = itpn_backbone(name)
        return MaskedPyramidAutoencoder(backbone, PyramidNeck(backbone.dims, depth=2))

    noise = torch.empty(1, 196, device="meta")
    assert gigamacs(built(make), image(224), noise) == pytest.approx(expected, abs=0.06)
