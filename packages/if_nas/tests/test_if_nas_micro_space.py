"""The DARTS micro space: its size, what is drawn and derived from it, and cells as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from if_nas.genotype import Connection, Genotype
from if_nas.micro_genotype import MICRO_GENOTYPES, MicroGenotype, is_micro, read_any_genotype
from if_nas.micro_space import MicroSpace, gold_nas_log10_size
from if_nas.schedule import InterleavingFreeSchedule, has_interleaving
from vireo.errors import InputError

CHAIN = {"stage1": {"1": [["conv3", 0]]}}


def test_sizes_are_the_published_ones() -> None:
    assert f"{10 ** MicroSpace().log10_size():.1e}" == "1.1e+18"
    exponent, mantissa = divmod(gold_nas_log10_size(), 1)
    assert (int(exponent), round(10**mantissa, 1)) == (117, 3.1)
    assert MicroSpace(1, ("none", "skip_connect", "max_pool_3x3")).log10_size() == pytest.approx(2 * np.log10(4))


def test_a_node_may_read_all_states_before_it() -> None:
    space = MicroSpace()
    assert [space.sources(node) for node in (1, 2, 4)] == [(-1, 0), (-1, 0, 1), (-1, 0, 1, 2, 3)]
    assert len(space.edges()) == 14
    assert space.edges()[:3] == [(-1, 1), (0, 1), (-1, 2)]


def test_random_architectures_stay_in_the_space_and_follow_the_generator() -> None:
    space = MicroSpace(3, ("none", "skip_connect", "sep_conv_3x3"))
    drawn = [space.random(np.random.default_rng(seed)) for seed in range(30)]
    assert drawn[3] == space.random(np.random.default_rng(3))
    assert len(set(drawn)) > 20
    for genotype in drawn:
        assert genotype.num_nodes == (3, 3)
        assert set(genotype.operators) <= {"skip_connect", "sep_conv_3x3"}
        for nodes in (genotype.normal, genotype.reduce):
            assert all(first.source < second.source for first, second in nodes)
    assert {inputs for genotype in drawn for inputs in genotype.normal[:1]} == {
        (Connection(first, 0), Connection(second, 1))
        for first in ("skip_connect", "sep_conv_3x3")
        for second in ("skip_connect", "sep_conv_3x3")
    }


def test_derivation_keeps_the_two_strongest_inputs_and_never_none() -> None:
    space = MicroSpace(2, ("none", "skip_connect", "sep_conv_3x3"))
    normal = np.array(
        [
            [0.8, 0.1, 0.1],  # -1 to 1: a tie of operators, the first counts
            [0.1, 0.2, 0.7],  # 0 to 1
            [0.9, 0.06, 0.04],  # -1 to 2: the strongest only by none
            [0.2, 0.5, 0.3],  # 0 to 2
            [0.3, 0.1, 0.6],  # 1 to 2
        ]
    )
    genotype = space.derive(normal, np.full((5, 3), 1 / 3))
    assert genotype.normal == (
        (Connection("skip_connect", 0), Connection("sep_conv_3x3", 1)),
        (Connection("skip_connect", 1), Connection("sep_conv_3x3", 2)),
    )
    assert [[source for _, source in inputs] for inputs in genotype.reduce] == [[0, 1], [0, 1]]  # the first on ties
    assert genotype.normal_concat == genotype.reduce_concat == (2, 3)
    assert genotype.depths == (2, 1)


def test_the_schedule_with_a_period_of_all_nodes_leaves_nothing_interleaved() -> None:
    space = MicroSpace()

    def interleaved(period: int) -> list[bool]:
        found = []
        for turn in range(period):
            (active,) = InterleavingFreeSchedule(3, period).active(turn, (4,))
            edges = [(s, n) for s, n in space.edges() if n in active or s == n - 1]
            found.append(has_interleaving(edges))
        return found

    assert interleaved(4) == [False] * 4
    assert any(interleaved(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": 0}, "0 nodes are no cell"),
        ({"nodes": "4"}, "'4' nodes are no cell"),
        ({"ops": ("none",)}, "at least one operator beside none"),
        ({"ops": ("skip_connect", "skip_connect")}, "each once"),
        ({"ops": ("skip_connect", "conv3")}, "unknown operator 'conv3'"),
    ],
)
def test_spaces_that_cannot_be_searched(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MicroSpace(**settings)


def test_genotypes_go_through_json(tmp_path: Path) -> None:
    genotype = MICRO_GENOTYPES["darts_v2"]
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps({**genotype.to_dict(), "epoch": 50}))
    assert read_any_genotype(path) == genotype
    assert genotype.to_dict()["normal"][-1] == ["dil_conv_3x3", 2]
    assert (genotype.depths, genotype.depth) == ((2, 2), 4)
    path.write_text(json.dumps(CHAIN))
    assert read_any_genotype(path) == Genotype.from_dict(CHAIN)
    assert is_micro(genotype.to_dict())
    assert not is_micro(CHAIN)
    assert not is_micro([])


def _darts(**changes: Any) -> dict[str, Any]:
    return {**MICRO_GENOTYPES["darts_v1"].to_dict(), **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_darts(normal=[]), "normal cell: has no node"),
        (_darts(normal=None), "normal: is no list of two inputs per node"),
        (_darts(normal=[["skip_connect", 0]]), "no list of two inputs per node"),
        (_darts(reduce=[["skip_connect", 0], ["skip_connect"]]), "reduce: .* is no connection"),
        (_darts(reduce=[["skip_connect", 0], ["skip_connect", "1"]]), "is no connection"),
        (_darts(reduce=[["skip_connect", 0], ["conv3", 1]]), "unknown operator 'conv3'"),
        (_darts(reduce=[["skip_connect", 0], ["none", 1]]), "unknown operator 'none'"),
        (_darts(reduce=[["skip_connect", 0], ["skip_connect", 2]]), "state 2 reads state 2"),
        (_darts(normal_concat=[1, 2]), "no set of intermediate nodes"),
        (_darts(normal_concat=[2, 6]), "no set of intermediate nodes"),
        (_darts(normal_concat=[]), "no set of intermediate nodes"),
        (_darts(reduce_concat=None), "None is no list of states"),
        ([1], "has no stage1"),
    ],
)
def test_malformed_genotypes_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_any_genotype(path)
    assert str(caught.value).count("genotype.json") == 1


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.json: cannot be read"):
        read_any_genotype(tmp_path / "missing.json")
    (tmp_path / "torn.json").write_text('{"normal": [')
    with pytest.raises(InputError, match=r"torn\.json: is not JSON"):
        read_any_genotype(tmp_path / "torn.json")
    with pytest.raises(InputError, match="is no genotype of cells"):
        MicroGenotype.from_dict(CHAIN)
