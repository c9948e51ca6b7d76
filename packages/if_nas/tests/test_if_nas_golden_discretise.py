"""Derivation by threshold, and removal of dead nodes, against the reference numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from if_nas_golden import load_json

from if_nas.derivation import derive_genotype, keep_strong
from if_nas.genotype import Genotype
from if_nas.space import LChainSpace
from vireo.testing import values

CASES = load_json("discretise")


def inputs(genotype: Genotype) -> dict[str, Any]:
    """Stage to node to what it reads, as the reference has it."""
    return {
        f"stage{s}": {str(node): [source for _, source in connections] for node, connections in stage.items()}
        for s, stage in enumerate(genotype.stages, 1)
    }


@pytest.mark.parametrize("name", CASES)
def test_reference(name: str) -> None:
    case = CASES[name]
    assert set(case) == {"nodes", "length", "beta_scale", "threshold", "pruned", "filtered"}
    space = LChainSpace(tuple(case["nodes"]), case["length"], ("conv3",))
    rows = [
        values(f"input.betas.stage{stage}.node{node}", (1, space.length), 7)
        for stage, count in enumerate(space.nodes, 1)
        for node in range(1, count + 1)
    ]
    weights = 1 / (1 + np.exp(-case["beta_scale"] * np.concatenate(rows).astype(np.float64)))
    ops = np.full((*weights.shape, 1), 0.5)
    assert inputs(keep_strong(space, weights, ops, case["threshold"])) == case["pruned"]
    assert inputs(derive_genotype(space, weights, ops, case["threshold"])) == case["filtered"]
