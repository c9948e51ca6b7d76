"""The L-chain space: its graph, its size, and what is drawn from it."""

from __future__ import annotations

import numpy as np
import pytest
from if_nas_golden import load_json

from if_nas import LChainSpace
from vireo.errors import InputError


def test_golden_space_size() -> None:
    wanted = load_json("space_size")
    assert len(wanted) == 6
    for key, value in wanted.items():
        found = LChainSpace((18, 20, 18), int(key[1:])).log10_size()
        assert found == pytest.approx(value["log10_architectures"], rel=1e-9)
        assert 10 ** (found % 1) == pytest.approx(value["mantissa"], rel=1e-9)
        assert int(found) == value["exponent"]


@pytest.mark.parametrize(("length", "edges"), [(4, 206), (6, 291), (8, 364)])
def test_the_number_of_edges_is_the_published_one(length: int, edges: int) -> None:
    assert LChainSpace(length=length).num_edges == edges


def test_sources_are_the_nearest_predecessors_with_the_direct_one_last() -> None:
    space = LChainSpace((6, 7), 3)
    assert [space.sources(1, node) for node in (1, 2, 3, 4, 7)] == [(0,), (0, 1), (0, 1, 2), (1, 2, 3), (4, 5, 6)]
    assert space.edges(0)[:4] == [(0, 1), (0, 2), (1, 2), (0, 3)]
    assert space.full().num_nodes == (6, 7)
    assert len(space.full().stages[0][4]) == 6


def test_random_architectures_stay_in_the_space_and_follow_the_generator() -> None:
    space = LChainSpace((9, 8, 9), 4)
    drawn = [space.random(np.random.default_rng(7), 3) for _ in range(2)]
    assert drawn[0] == drawn[1] != space.random(np.random.default_rng(8), 3)
    everything = space.full()
    counts = set()
    for seed in range(20):
        for number, stage in enumerate(space.random(np.random.default_rng(seed), 3).stages):
            assert max(stage) == space.nodes[number]
            read = {source for inputs in stage.values() for _, source in inputs}
            assert set(stage) - {max(stage)} <= read, "a node that nobody reads"
            for node, inputs in stage.items():
                assert set(inputs) <= set(everything.stages[number][node])
                assert len(set(inputs)) == len(inputs)
                counts.add(len(inputs))
    assert counts == {1, 2, 3}


def test_sub_networks_have_one_edge_per_node_with_every_operator() -> None:
    space = LChainSpace((6, 6), 4)
    for seed in range(10):
        genotype = space.sample_subnet(np.random.default_rng(seed))
        for inputs in (inputs for stage in genotype.stages for inputs in stage.values()):
            assert [op for op, _ in inputs] == ["skip", "conv3"]
            assert len({source for _, source in inputs}) == 1


def test_another_graph() -> None:
    candidates = {1: (0,), 2: (1,), 3: (2,), 4: (1, 3)}
    space = LChainSpace((4,), 2, candidates=(candidates,))
    assert space.edges(0) == [(0, 1), (1, 2), (2, 3), (1, 4), (3, 4)]
    assert space.log10_size() == pytest.approx(np.log10(27))  # three nodes before the last, 2 ** 2 - 1 each


def test_the_longest_connection() -> None:
    assert LChainSpace((18, 20), 8).longest == 8
    assert LChainSpace((3, 5), 8).longest == 5
    assert LChainSpace((4,), 2, candidates=({1: (0,), 2: (1,), 3: (2,), 4: (0, 3)},)).longest == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": "666"}, "nodes '666' are no whole numbers"),
        ({"nodes": 6}, "nodes 6 are no whole numbers"),
        ({"nodes": (6, True)}, "are no whole numbers"),
        ({"nodes": (6.0,)}, "are no whole numbers"),
        ({"length": "4"}, "length '4' is no whole number"),
        ({"length": True}, "length True is no whole number"),
        ({"ops": "skip"}, "operators 'skip' are no list of names"),
        ({"ops": ("skip", 3)}, "are no list of names"),
        ({"ops": None}, "are no list of names"),
        ({"nodes": ()}, "give each stage one node"),
        ({"nodes": (3, 0)}, "give each stage one node"),
        ({"length": 0}, "leaves nodes without input"),
        ({"ops": ()}, "at least one operator"),
        ({"ops": ("skip", "skip")}, "each once"),
        ({"nodes": (2,), "candidates": ()}, "one mapping for each stage"),
        ({"nodes": (2,), "candidates": ({1: (0,)},)}, "stage 1, node 2: is a dead end: it reads nothing"),
        ({"nodes": (2,), "candidates": ({1: (0,), 2: (0,)},)}, "stage 1, node 1: is a dead end: nobody reads it"),
        ({"nodes": (2,), "candidates": ({1: (0,), 2: (2,)},)}, "earlier nodes"),
        ({"nodes": (2,), "candidates": ({1: (0,), 2: (0, "1")},)}, "earlier nodes"),
        ({"nodes": (2,), "candidates": ({1: (0,), 2: (1, 0)},)}, "ascending order"),
        ({"nodes": (2,), "length": 1, "candidates": ({1: (0,), 2: (0, 1)},)}, "at most length"),
    ],
)
def test_spaces_that_cannot_be_searched(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LChainSpace(**settings)  # type: ignore[arg-type]


def test_random_architectures_need_an_input() -> None:
    with pytest.raises(InputError, match="max_inputs 0"):
        LChainSpace((3,)).random(np.random.default_rng(0), 0)
