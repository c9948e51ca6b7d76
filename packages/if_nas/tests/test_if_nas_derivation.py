"""The rules that turn weights into an architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from if_nas.derivation import derive_genotype, keep_strong
from if_nas.genotype import Connection, prune_dead_nodes
from if_nas.space import LChainSpace
from vireo.errors import InputError

SPACE = LChainSpace((3,), 2, ("skip", "conv3"))
EDGES = np.array([[0.05, 9.9], [0.3, 0.2], [0.3, 0.3]])  # node 1 has one input: its second column is not read
OPS = np.full((3, 2, 2), 0.5)


def sources(**rule: Any) -> dict[int, list[int]]:
    stage = keep_strong(SPACE, EDGES, OPS, **rule).stages[0]
    return {node: sorted({source for _, source in inputs}) for node, inputs in stage.items()}


def test_threshold_keeps_what_is_above_and_at_least_the_first_of_the_largest() -> None:
    assert sources() == {1: [0], 2: [0, 1], 3: [1, 2]}
    assert sources(threshold=0.2) == {1: [0], 2: [0], 3: [1, 2]}
    assert sources(threshold=0.3) == {1: [0], 2: [0], 3: [1]}


def test_keep_takes_the_strongest_whatever_the_threshold() -> None:
    assert sources(keep=1, threshold=0.9) == {1: [0], 2: [0], 3: [1]}
    assert sources(keep=2) == sources(keep=5) == {1: [0], 2: [0, 1], 3: [1, 2]}


def test_dead_nodes_go_and_numbers_stay() -> None:
    genotype = derive_genotype(SPACE, np.array([[0.5, 0], [0.5, 0.1], [0.1, 0.5]]), OPS, keep=1)
    assert list(genotype.stages[0]) == [2, 3]


def test_operators_have_a_threshold_of_their_own() -> None:
    ops = OPS.copy()
    ops[0, 0] = 0.05, 0.04  # none is above: the larger stays
    ops[1, 0] = 0.3, 0.6
    stage = keep_strong(SPACE, EDGES, ops, 0.1, keep=1).stages[0]
    assert stage[1] == (Connection("skip", 0),)
    assert stage[2] == (Connection("skip", 0), Connection("conv3", 0))
    assert keep_strong(SPACE, EDGES, ops, 0.1, 1, 0.3).stages[0][2] == (Connection("conv3", 0),)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0, 0.99))
def test_whatever_is_derived_lies_in_the_space(seed: int, length: int, threshold: float) -> None:
    space = LChainSpace((5, 4), length)
    drawn = np.random.default_rng(seed)
    genotype = derive_genotype(space, drawn.random((9, length)), drawn.random((9, length, 2)), threshold)
    assert prune_dead_nodes(genotype) == genotype
    assert all(set(genotype.edges(stage)) <= set(space.edges(stage)) for stage in (0, 1))
    assert [max(stage) for stage in genotype.stages] == [5, 4]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"threshold": 2}, "threshold 2"),
        ({"threshold": -0.1}, "threshold -0.1"),
        ({"threshold": "0.1"}, "threshold '0.1'"),
        ({"threshold": None}, "threshold None"),
        ({"op_threshold": 1.0}, "op_threshold 1.0"),
        ({"op_threshold": float("nan")}, "op_threshold nan"),
        ({"keep": 0}, "keep 0"),
        ({"keep": 1.5}, "keep 1.5"),
        ({"keep": True}, "keep True"),
    ],
)
def test_impossible_rules(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        derive_genotype(SPACE, EDGES, OPS, **rule)


def test_weights_of_another_space_or_of_a_search_that_diverged() -> None:
    with pytest.raises(InputError, match=r"edge weights have the shape \(3, 1\), not \(3, 2\)"):
        derive_genotype(SPACE, EDGES[:, :1], OPS)
    with pytest.raises(InputError, match="operator weights have the shape"):
        derive_genotype(SPACE, EDGES, OPS[..., :1])
    with pytest.raises(InputError, match="operator weights are not finite"):
        derive_genotype(SPACE, EDGES, OPS * np.nan)
