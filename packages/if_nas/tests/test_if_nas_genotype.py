"""Genotypes: what they refuse, their files, dead nodes, depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from if_nas_golden import load_json

from if_nas import Connection, Genotype, prune_dead_nodes, read_genotype, write_genotype
from if_nas.genotype import Stage
from vireo.errors import InputError

CONV0 = (Connection("conv3", 0),)


def test_golden_genotypes_go_round() -> None:
    for name, content in load_json("genotypes").items():
        genotype = Genotype.from_dict(content, name)
        assert genotype.to_dict() == content
        dead = sum(genotype.num_nodes) - sum(prune_dead_nodes(genotype).num_nodes)
        assert dead == (name in ("if_l6_keep1", "if_l8")), name  # one each, as released


def test_depth_is_the_longest_path() -> None:
    stage: Stage = {1: CONV0, 2: (Connection("skip", 0), Connection("conv3", 1)), 5: (Connection("skip", 1),)}
    genotype = Genotype((stage, {1: CONV0}))
    assert genotype.depths == (2, 1)
    assert genotype.depth == 3
    assert genotype.num_nodes == (3, 1)
    assert genotype.operators == ("conv3", "skip")
    assert genotype.edges(0) == [(0, 1), (0, 2), (1, 2), (1, 5)]


def test_dead_nodes_go_until_there_is_none() -> None:
    stage: Stage = {
        1: CONV0,
        2: CONV0,
        3: (Connection("skip", 2),),
        4: (Connection("skip", 3),),
        5: (Connection("conv3", 1),),
    }
    assert prune_dead_nodes(Genotype((stage,))).stages == ({1: stage[1], 5: stage[5]},)


def test_a_file_goes_round_and_says_where_it_comes_from(tmp_path: Path) -> None:
    genotype = Genotype(({1: CONV0, 3: (Connection("skip", 1), Connection("skip", 1))},))
    write_genotype(tmp_path / "a.json", genotype, epoch=3)
    assert read_genotype(tmp_path / "a.json") == genotype
    assert json.loads((tmp_path / "a.json").read_text())["epoch"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is no genotype"),
        ({}, "is no genotype"),
        ({"stage1": []}, "is no genotype"),
        ({"stage1": {}}, "stage 1: has no node"),
        ({"stage1": {"1": [["conv3", 0]]}, "stage3": {"1": [["conv3", 0]]}}, "do not follow one another"),
        ({"stage1": {"a": [["conv3", 0]]}}, "'a' is no number"),
        ({"stage1": {"1": [["conv3", 0]], "01": [["conv3", 0]]}}, "stands twice"),
        ({"stage1": {"0": [["conv3", 0]]}}, "ascending from 1"),
        ({"stage1": {"1": []}}, "node 1: has no input"),
        ({"stage1": {"1": "conv3"}}, "no list of connections"),
        ({"stage1": {"1": ["conv3"]}}, "is no connection"),
        ({"stage1": {"1": [["conv3", "0"]]}}, "is no connection"),
        ({"stage1": {"1": [["conv3", True]]}}, "is no connection"),
        ({"stage1": {"1": [["conv3", 0]], "3": [["conv3", 2]]}}, "node 3: reads node 2"),
        ({"stage1": {"1": [["conv3", 1]]}}, "node 1: reads node 1"),
        ({"stage1": {"1": [["conv3", -1]]}}, "reads node -1"),
    ],
)
def test_content_that_is_no_genotype(content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Genotype.from_dict(content, "mine.json")
    assert caught.value.where.startswith("mine.json")


def test_a_genotype_without_stages() -> None:
    with pytest.raises(InputError, match="has no stage"):
        Genotype(())


def test_operators_that_nobody_knows() -> None:
    genotype = Genotype(({1: (Connection("conv7", 0), Connection("skip", 0))},))
    genotype.require_operators(["conv7", "skip"])
    with pytest.raises(InputError, match="unknown operator 'conv7'"):
        genotype.require_operators(["skip"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_genotype(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"stage1": {')
    with pytest.raises(InputError, match="is not JSON"):
        read_genotype(tmp_path / "torn.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not JSON"):
        read_genotype(tmp_path / "binary.json")
    (tmp_path / "nested.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is not JSON"):
        read_genotype(tmp_path / "nested.json")


def test_a_node_number_that_is_a_slip() -> None:
    with pytest.raises(InputError, match="stage 1: node 1000000000 is beyond 10000"):
        Genotype(({1: (Connection("conv3", 0),), 10**9: (Connection("conv3", 1),)},))
