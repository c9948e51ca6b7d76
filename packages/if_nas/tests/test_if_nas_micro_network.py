"""Networks of DARTS cells: published sizes, structure, operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from if_nas import micro_network
from if_nas.cost import count_cost
from if_nas.micro_cell import build_micro_operator
from if_nas.micro_genotype import MICRO_GENOTYPES, MICRO_OPERATORS
from if_nas.micro_network import MicroNetwork
from vireo.errors import InputError

DARTS = MICRO_GENOTYPES["darts_v2"]


@pytest.mark.parametrize(
    ("name", "cifar", "imagenet", "millions"),
    [
        ("darts_v2", 3_349_342, 4_718_752, (3.3, 4.7)),
        ("pc_darts_cifar", 3_634_678, 5_270_560, (3.6, 5.3)),
        ("pc_darts_imagenet", 3_721_510, 5_342_464, (3.7, 5.3)),
    ],
)
def test_parameters_are_the_published_ones(name: str, cifar: int, imagenet: int, millions: tuple[float, float]) -> None:
    with torch.device("meta"):
        small = MicroNetwork(MICRO_GENOTYPES[name], 36, 10)
        large = MicroNetwork(MICRO_GENOTYPES[name], 48, 1000, cells=14, variant="imagenet")
    params = [sum(p.numel() for p in network.parameters()) for network in (small, large)]
    assert params == [cifar, imagenet]
    assert tuple(round(number / 1e6, 1) for number in params) == millions


@pytest.mark.parametrize(
    ("name", "macs", "counted", "published"),
    [
        ("pc_darts_cifar", 571_137_408, 585_983_232, 586),
        ("pc_darts_imagenet", 581_627_328, 596_717_760, 597),
        ("darts_v2", 529_911_552, 544_211_712, None),  # published: 574, by a counter that is not told
    ],
)
def test_multiply_adds_on_imagenet(name: str, macs: int, counted: int, published: int | None) -> None:
    """The published numbers of PC-DARTS are those of the ``official`` convention, to the million."""
    with torch.device("meta"):
        network = MicroNetwork(MICRO_GENOTYPES[name], 48, 1000, cells=14, variant="imagenet")
        found = [count_cost(network, 224, convention).macs for convention in ("macs", "official")]
    assert found == [macs, counted]
    assert published in (None, round(counted / 1e6))


def test_names_of_parameters_are_those_of_darts() -> None:
    with torch.device("meta"):
        keys = set(MicroNetwork(DARTS, 36, 10, auxiliary=True).state_dict())
        imagenet = set(MicroNetwork(DARTS, 48, 1000, 14, "imagenet", auxiliary=True).state_dict())
    assert {
        "stem.0.weight",
        "cells.0.preprocess0.op.1.weight",
        "cells.7.preprocess0.conv_1.weight",  # the input from before the reduction
        "cells.0._ops.0.op.7.running_var",
        "cells.0._ops.7.op.3.weight",
        "auxiliary_head.features.2.weight",
        "auxiliary_head.features.6.weight",
        "auxiliary_head.classifier.bias",
        "classifier.bias",
    } <= keys
    assert {"stem0.0.weight", "stem0.4.weight", "stem1.2.weight", "cells.0.preprocess0.conv_2.weight"} <= imagenet
    assert not any(key.startswith("auxiliary_head.features.6") for key in imagenet)  # no last normalisation there
    assert [key for key in sorted(keys | imagenet) if key.endswith("bias") and "conv" in key] == []


def test_cells_at_a_third_and_two_thirds_reduce() -> None:
    network = MicroNetwork(DARTS, 4, 10, cells=6)
    shapes = []
    for cell in network.cells:
        cell.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert network.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    assert shapes == [(16, 16, 16)] * 2 + [(32, 8, 8)] * 2 + [(64, 4, 4)] * 2


@pytest.mark.parametrize(("variant", "side", "smaller"), [("cifar", 32, 16), ("imagenet", 224, 192)])
def test_the_auxiliary_head_runs_in_training_on_its_image_size(variant: Any, side: int, smaller: int) -> None:
    with torch.device("meta"):
        network = MicroNetwork(DARTS, 8, 10, cells=3, variant=variant, auxiliary=True)
        logits, auxiliary = network.train()(torch.zeros(2, 3, side, side))
        assert logits.shape == auxiliary.shape == (2, 10)
        assert network.eval()(torch.zeros(2, 3, smaller, smaller)).shape == (2, 10)
        with pytest.raises(InputError, match=f"train on images of {side}x{side} pixels"):
            network.train()(torch.zeros(2, 3, smaller, smaller))


def test_drop_path_leaves_the_identity_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    def recorded(features: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
        rates.append((rate, training))
        return features

    monkeypatch.setattr(micro_network, "drop_path", recorded)
    network = MicroNetwork(DARTS, 2, 4, cells=3, drop_path=0.3)
    network.drop_path = 0.2  # as it grows over a training
    network(torch.zeros(2, 3, 8, 8))
    # of 8 operators each, 2 of the normal cell and 3 of either reduction cell are identities
    assert rates == [(0.2, True)] * (6 + 5 + 5)


def test_drop_path_acts_on_samples_in_training_only() -> None:
    network = MicroNetwork(DARTS, 4, 4, cells=3, drop_path=0.9)
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).expand(6, -1, -1, -1)
    logits = network.eval()(image)
    torch.testing.assert_close(logits, logits[:1].expand(6, -1))
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False
    network.train()
    assert (network(image).std(0) > 0).any()


@pytest.mark.parametrize(
    ("name", "field"), [("sep_conv_3x3", 5), ("sep_conv_5x5", 9), ("dil_conv_3x3", 5), ("dil_conv_5x5", 9)]
)
def test_what_an_operator_sees(name: str, field: int) -> None:
    operator = build_micro_operator(name, 2).eval()
    for parameter in operator.parameters():
        nn.init.constant_(parameter, 0.1)
    image = torch.ones(1, 2, 13, 13, requires_grad=True)
    operator(image)[0, 0, 6, 6].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].any(1).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (6 - field // 2, 6 + field // 2)
    gaps = int(image.grad[0, 0].any(1).sum()) < field
    assert gaps == name.startswith("dil")


@pytest.mark.parametrize("name", MICRO_OPERATORS[1:])
def test_operators_keep_channels_and_follow_the_stride(name: str) -> None:
    images = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    for stride in (1, 2):
        assert build_micro_operator(name, 6, stride)(images).shape == (2, 6, 8 // stride, 8 // stride)
    assert torch.equal(images, before)
    assert not any(
        p.numel()
        for m in build_micro_operator(name, 6, 2, affine=False).modules()
        if isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    )


def test_pooling_leaves_the_border_out_of_the_mean() -> None:
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(build_micro_operator("avg_pool_3x3", 1)(ones), ones)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cells": 2}, "2 cells have no place for two reductions"),
        ({"cells": None}, "None cells"),
        ({"width": 1}, "width 1 is no number of channels"),
        ({"width": "36"}, "width '36'"),
        ({"variant": "mnist"}, "unknown variant 'mnist'"),
        ({"drop_path": 1.0}, "drop_path 1.0 is no rate"),
        ({"drop_path": "0.2"}, "drop_path '0.2' is no rate"),
    ],
)
def test_networks_that_cannot_be_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MicroNetwork(**{"genotype": DARTS, "width": 8, "num_classes": 10, **settings})


def test_images_that_cannot_be_halved() -> None:
    with pytest.raises(InputError, match=r"30x32 pixels cannot be halved.*multiples of 4"):
        MicroNetwork(DARTS, 2, 4, cells=3)(torch.zeros(1, 3, 30, 32))


def test_none_is_no_operator_of_a_network() -> None:
    with pytest.raises(InputError, match="unknown operator 'none'"):
        build_micro_operator("none", 4)
