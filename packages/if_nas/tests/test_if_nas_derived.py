"""Derived networks beyond the reference numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from if_nas.derived import DerivedNetwork
from if_nas.genotype import Connection, Genotype
from if_nas.published import GENOTYPES
from vireo.errors import InputError

BOTH = tuple(Connection(op, 0) for op in ("conv3", "skip"))
TINY = Genotype(({1: BOTH, 2: (Connection("skip", 0), Connection("conv3", 1))}, {1: BOTH}, {1: BOTH}))


def network(genotype: Genotype = TINY, **options: Any) -> DerivedNetwork:
    torch.manual_seed(0)
    return DerivedNetwork(genotype, **{"width": 4, "num_classes": 3, "variant": "cifar", **options})


def test_a_node_is_the_sum_of_its_connections() -> None:
    stage: Any = network().eval().stages[0]
    features = torch.randn(2, 4, 8, 8)
    first = stage.ops[0](features) + features
    torch.testing.assert_close(stage(features), features + stage.ops[3](first))


def test_a_connection_that_stands_twice_has_its_own_weights() -> None:
    twice = Genotype(({1: (Connection("conv3", 0), Connection("conv3", 0))}, {1: BOTH}, {1: BOTH}))
    stage: Any = network(twice).eval().stages[0]
    features = torch.randn(1, 4, 8, 8)
    assert not torch.equal(stage.ops[0](features), stage.ops[1](features))
    torch.testing.assert_close(stage(features), stage.ops[0](features) + stage.ops[1](features))


@pytest.mark.parametrize(("variant", "side", "strides"), [("cifar", 32, (1, 2, 4)), ("imagenet", 64, (8, 16, 32))])
def test_maps(variant: str, side: int, strides: tuple[int, ...]) -> None:
    built = network(variant=variant).eval()
    maps = built.stage_features(torch.randn(1, 3, side, side))
    assert [tuple(m.shape[1:]) for m in maps] == [(c, side // s, side // s) for c, s in zip(built.widths, strides)]


def test_auxiliary_logits_in_training_only() -> None:
    built = network(auxiliary=True)
    images = torch.randn(2, 3, 32, 32)
    logits, auxiliary = built(images)
    assert logits.shape == auxiliary.shape == (2, 3)
    (logits.sum() + auxiliary.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in built.parameters())
    assert built.eval()(images).shape == (2, 3)
    with pytest.raises(InputError, match="the map after stage 2 is 8x8, the head needs 16x16"):
        built.train()(images[..., :16, :16])
    with pytest.raises(InputError, match=r"14x14.*224x224"):
        network(auxiliary=True, variant="imagenet")(torch.randn(2, 3, 64, 64))


def test_drop_path_spares_skips_and_evaluation() -> None:
    built, images = network(drop_path=0.0), torch.randn(64, 3, 8, 8)
    stage, features = built.stages[0], torch.randn(64, 4, 8, 8)
    plain = stage(features)
    torch.manual_seed(0)
    dropped = stage(features, 0.5)
    changed = (dropped - plain).flatten(1).abs().amax(1) > 1e-6
    assert changed.any()
    skip_alone = (dropped - features).flatten(1).abs().amax(1) == 0  # the last node's conv3 is dropped
    assert 0 < skip_alone.sum() < 64  # each sample by itself
    built.drop_path = 0.9
    evaluated = built.eval()(images)
    built.drop_path = 0.0
    assert torch.equal(evaluated, built(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genotype": Genotype(({1: BOTH},))}, "a genotype of 1 stages"),
        ({"genotype": Genotype(tuple({1: (Connection("conv7", 0),)} for _ in range(3)))}, "unknown operator 'conv7'"),
        ({"variant": "tiny"}, "unknown variant 'tiny'"),
        ({"width": 0}, "width 0"),
        ({"width": "8"}, "width '8'"),
        ({"drop_path": 1}, "drop_path 1"),
        ({"drop_path": -0.1}, "drop_path -0.1"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**options)


def test_batches_do_not_mix_in_evaluation() -> None:
    built = network(GENOTYPES["geno_cosine_similarity2"]).eval()
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(built(images)[1:], built(images[1:]), rtol=1e-4, atol=1e-5)
