"""Super-networks against the authors' numbers: stages and logits in every phase, keys, costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from if_nas_golden import close, every, load, load_json
from if_nas_supernets import SMALL, filled, outputs

from if_nas.cost import count_cost
from if_nas.official_supernet import supernet_from_official, supernet_to_official
from if_nas.plan import phase_plan
from if_nas.schedule import ActiveNodes, InterleavingFreeSchedule, every_node
from if_nas.space import LChainSpace
from if_nas.supernet import LChainSupernet
from vireo.testing import tensor

LARGE = (18, 20, 18)


def compare(
    golden: dict[str, np.ndarray], prefix: str, found: dict[str, torch.Tensor], step: int, tolerance: float
) -> set[str]:
    """Compare all outputs of one forward pass; the names of what was compared."""
    for name, value in found.items():
        close(every(value, 1 if name == "logits" else step), golden[f"{prefix}.{name}"].ravel(), tolerance, name)
    return {f"{prefix}.{name}" for name in found}


@pytest.mark.parametrize(
    ("name", "batch", "seed", "train", "tolerance"),
    [("supernet_small_eval", 2, 0, False, 1e-5), ("supernet_small_train", 4, 1, True, 1e-4)],
)
def test_small_in_both_variants(name: str, batch: int, seed: int, train: bool, tolerance: float) -> None:
    golden, compared = load(name), set()
    images = tensor("input", (batch, 3, 64, 64), seed)
    for variant in ("fixed", "legacy"):
        for turn in range(4):
            network = filled(SMALL, seed, legacy_op_indexing=variant == "legacy").train(train)
            found = outputs(network, images, InterleavingFreeSchedule(3).active(turn, SMALL.nodes))
            compared |= compare(golden, f"{variant}.turn{turn}", found, 3, tolerance)
    assert compared == set(golden)


@pytest.mark.parametrize(
    ("name", "length", "seed", "turns"),
    [("supernet_l8_train64", 8, 2, (0, 4, 8)), ("supernet_l4_train64", 4, 3, (0, 3))],
)
def test_published_size_in_double_precision(name: str, length: int, seed: int, turns: tuple[int, ...]) -> None:
    golden, compared = load(name), set()
    space = LChainSpace(LARGE, length)
    images = tensor("input", (4, 3, 64, 64), seed).double()
    for variant in sorted({key.partition(".")[0] for key in golden}):
        network = filled(space, seed, 16, 100, legacy_op_indexing=variant == "legacy").double().train()
        for turn in turns:  # statistics of the batch alone enter
            found = outputs(network, images, InterleavingFreeSchedule(length).active(turn, LARGE))
            compared |= compare(golden, f"{variant}.turn{turn}", found, 11, 1e-8)
    assert compared == set(golden)


def test_every_node_active() -> None:
    golden = load("supernet_dnas_small")
    network = filled(SMALL, 11).double().train()
    found = outputs(network, tensor("input", (4, 3, 64, 64), 11).double(), every_node(SMALL.nodes))
    assert compare(golden, "dnas.turn0", found, 3, 1e-9) == set(golden)


def test_period_of_the_length() -> None:
    golden, compared = load("supernet_periodL_small"), set()
    images = tensor("input", (4, 3, 64, 64), 12).double()
    for turn in range(3):
        network = filled(SMALL, 12).double().train()
        found = outputs(network, images, InterleavingFreeSchedule(3, period=3).active(turn, SMALL.nodes))
        compared |= compare(golden, f"periodL.turn{turn}", found, 3, 1e-9)
    assert compared == set(golden)


@pytest.mark.parametrize(
    ("name", "space", "width", "classes"),
    [("supernet_small.keys", SMALL, 8, 10), ("supernet_l8_C16.keys", LChainSpace(LARGE, 8), 16, 100)],
)
def test_keys(name: str, space: LChainSpace, width: int, classes: int) -> None:
    keys: dict[str, Any] = load_json(name)
    network = LChainSupernet(space, width, classes)
    own = supernet_to_official(network)
    head = [key for key in keys if key.startswith("auxiliary_head.")]
    expected = {key: value for key, value in keys.items() if key not in head}
    assert {key: [list(value.shape), str(value.dtype)[6:]] for key, value in own.items()} == expected
    theirs = {key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in keys.items()}
    wrapped = {"state_dict": {f"module.{key}": value for key, value in theirs.items()}}
    assert supernet_from_official(network, wrapped) == head
    assert not any(value.any() for value in supernet_to_official(network).values())


def edges_run(space: LChainSpace, active: ActiveNodes) -> int:
    """Edges that are evaluated in a phase."""
    steps = [step for stage in phase_plan(space, active) for step in stage.steps]
    return sum(call.span[1] for step in steps for call in step.calls)


@pytest.mark.parametrize("length", [4, 6, 8])
def test_cost(length: int) -> None:
    golden = load_json("supernet_flops")[f"L{length}"]
    space = LChainSpace(LARGE, length)
    with torch.device("meta"):
        network, dense = (LChainSupernet(space, 16, 100, dense=dense) for dense in (False, True))
    phases = [InterleavingFreeSchedule(length).active(turn, LARGE) for turn in range(length + 1)]
    depthwise = [value for key, value in network.state_dict().items() if key.endswith("conv3.depthwise.0.weight")]
    assert golden == {
        "edges": space.num_edges,
        "conv_ops": sum(len(value) // (16 * 2**stage) for stage, value in enumerate(depthwise)),
        "params_without_aux": sum(parameter.numel() for parameter in network.weight_parameters()),
        "macs_dense": count_cost(dense, 224, active=phases[0]).macs,
        "macs_sampled_per_turn": [count_cost(network, 224, active=active).macs for active in phases],
        "edges_executed_per_turn": [edges_run(space, active) for active in phases],
        "betas": network.arch.beta.numel(),
        "alphas": 2 * sum(len(space.edges(stage)) for stage in range(3)),
    }
