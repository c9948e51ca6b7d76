"""Edge weights by distance, and the files that keep them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from if_nas_searches import TINY, configuration

from if_nas import LChainSpace
from if_nas.cost import count_cost
from if_nas.derived import DerivedNetwork
from if_nas.history import (
    describe,
    epoch_file,
    forget_from,
    measure,
    read_edge_weights,
    short_edge_preference,
    weights_by_distance,
    write_epoch,
)
from vireo.errors import InputError

# two stages, L = 2; node 1 of each has one candidate only and is left out
WEIGHTS = [{1: {0: 0.9}, 2: {0: 0.2, 1: 0.6}, 3: {1: 0.4, 2: 0.8}}, {1: {0: 0.1}, 2: {0: 0.3, 1: 0.4}}]


def test_weights_by_distance() -> None:
    assert weights_by_distance(WEIGHTS) == pytest.approx({1: (0.6 + 0.8 + 0.4) / 3, 2: (0.2 + 0.4 + 0.3) / 3})


def test_preference() -> None:
    assert short_edge_preference({1: 0.563, 2: 0.471, 3: 0.455, 4: 0.460}) == pytest.approx(0.101, abs=5e-4)
    assert short_edge_preference({1: 0.5}) is None
    described = describe(WEIGHTS)
    assert described["preference"] == pytest.approx(0.3)
    assert described["edge_weight"].keys() == {"1", "2"}


def test_epochs_are_written_read_and_forgotten(tmp_path: Path) -> None:
    genotype = LChainSpace((3, 2), 2).full()
    for epoch in range(4):
        write_epoch(tmp_path, epoch, genotype, [{1: {0: epoch / 10}}])
    assert read_edge_weights(tmp_path / "genotype.json") == [{1: {0: 0.3}}]
    assert read_edge_weights(epoch_file(tmp_path, 1)) == [{1: {0: 0.1}}]
    assert json.loads(epoch_file(tmp_path, 1).read_text())["epoch"] == 2
    forget_from(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / "genotypes").iterdir()) == ["epoch_001.json", "epoch_002.json"]
    assert (tmp_path / "genotype.json").is_file()
    forget_from(tmp_path, 0)
    assert not any((tmp_path / "genotypes").iterdir())
    assert not (tmp_path / "genotype.json").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"stage1": {}}', '{"edge_weights": 3}', '{"edge_weights": [{"a": {}}]}']
)
def test_files_without_edge_weights(tmp_path: Path, content: str) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"genotype.json: holds no edge weights .*give genotype.json of a search"):
        read_edge_weights(path)
    with pytest.raises(InputError, match="holds no edge weights"):
        read_edge_weights(tmp_path / "nothing.json")


def test_measure() -> None:
    """Depth, nodes and cost at the width of the search."""
    genotype = LChainSpace((3, 2, 2), 2).full()
    found = measure(genotype, configuration(*TINY), num_classes=6)
    cost = count_cost(DerivedNetwork(genotype, 2, 6, "cifar"), 16)
    assert found == {
        "depth": 7,
        "nodes": 7,
        "cost": {"params": cost.params, "auxiliary_params": 0, "macs": cost.macs},
    }
