"""The super-network beyond the reference numbers: what runs, what gets a gradient, other ways to run it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from if_nas_supernets import SMALL, filled
from torch import Tensor, nn

from if_nas.genotype import Genotype
from if_nas.operators import OPERATORS, register_operator
from if_nas.optim import search_optimizer
from if_nas.schedule import InterleavingFreeSchedule, every_node, has_interleaving
from if_nas.space import LChainSpace
from if_nas.supernet import LChainSupernet
from vireo.errors import InputError

NOBODY = ((), (), ())
PHASES = [InterleavingFreeSchedule(3).active(turn, SMALL.nodes) for turn in range(4)]


def images(dtype: torch.dtype = torch.double, batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def network(space: LChainSpace = SMALL, **options: Any) -> LChainSupernet:
    """A super-network for images of 8 x 8, in training mode, with weights that differ from node to node."""
    torch.manual_seed(0)
    made = LChainSupernet(space, 4, stem="cifar", **options).double()
    with torch.no_grad():
        made.arch.beta.normal_()
        made.arch.alpha.normal_()
    return made


def gradients(model: LChainSupernet, active: Any) -> dict[str, Tensor]:
    """Of the sum of squares of the logits, by parameter."""
    model.zero_grad()
    model(images(), active).square().sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("active", [*PHASES, NOBODY])
def test_all_parameters_get_a_gradient_in_every_phase(active: Any) -> None:
    model = network()
    found = gradients(model, active)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert not model.has_unused_parameters
    rows = model.arch.active_rows(active)
    assert bool((found["arch.beta"] != 0).any(1).eq(rows).all())


@pytest.mark.parametrize("legacy", [False, True])
def test_dense_evaluation_differs_in_batch_statistics_alone(legacy: bool) -> None:
    model, dense = (network(dense=dense, legacy_op_indexing=legacy) for dense in (False, True))
    found, expected = gradients(model, PHASES[2]), gradients(dense, PHASES[2])
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-11, rtol=1e-9)
    kept, followed = (m.stages[1].banks["conv3"].norm[0].running_mean for m in (model, dense))  # type: ignore
    assert followed.all()
    assert 0 < kept.count_nonzero() < len(kept)


def test_every_node_is_active_without_a_schedule() -> None:
    model = network()
    assert torch.equal(model(images()), model(images(), every_node(SMALL.nodes)))


def test_active_nodes_may_stand_in_lists() -> None:
    model = network()
    listed: Any = [list(nodes) for nodes in PHASES[1]]
    assert torch.equal(model(images(), listed), model(images(), PHASES[1]))
    assert model.penalties(listed) == model.penalties(PHASES[1])
    assert len(model._plans) == len(model.arch._masks) == 1


@pytest.mark.parametrize("active", [3, (1, 2, 3), ((1,), (1,), (0,)), ((1,), (1,)), (("1",), (), ())])
def test_active_nodes_that_are_none(active: Any) -> None:
    model = network()
    for refused in (lambda: model(images(), active), lambda: model.penalties(active)):
        with pytest.raises(InputError, match="active"):
            refused()


def test_ever_new_active_nodes_do_not_fill_the_memory() -> None:
    model = LChainSupernet(LChainSpace((9,), 8), 1)
    for number in range(200):
        active = (tuple(node for node in range(1, 10) if number >> node - 1 & 1),)
        model.plan(active)
        model.arch.active_rows(active)
    assert 0 < len(model._plans) == len(model.arch._masks) <= 64


def test_subnet_of_direct_predecessors_has_no_active_node() -> None:
    model = network()
    full = SMALL.full()
    chain = Genotype(tuple({node: inputs[-2:] for node, inputs in stage.items()} for stage in full.stages))
    torch.testing.assert_close(model(images(), subnet=chain), model(images(), NOBODY), atol=1e-12, rtol=1e-12)


def test_subnet_runs_nothing_else() -> None:
    model = network().eval()
    subnet = SMALL.sample_subnet(np.random.default_rng(0))
    expected = model(images(), subnet=subnet)
    used = {(stage, SMALL.edges(stage).index(edge)) for stage in range(3) for edge in subnet.edges(stage)}
    with torch.no_grad():
        for number, stage in enumerate(model.stages):
            for conv in stage.banks["conv3"].depthwise:  # type: ignore
                for edge, part in enumerate(conv.weight.chunk(len(SMALL.edges(number)))):
                    if (number, edge) not in used:
                        part.fill_(float("nan"))
    assert torch.equal(model(images(), subnet=subnet), expected)
    assert not torch.equal(model(images(), subnet=SMALL.sample_subnet(np.random.default_rng(1))), expected)


def test_any_operators_and_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("if_nas.operators.OPERATORS", dict(OPERATORS))
    register_operator("conv1", lambda channels: nn.Conv2d(channels, channels, 1))
    space = LChainSpace((4, 3), 2, ("none", "skip", "avg_pool_3x3", "sconv3", "conv1"))
    model = network(space)
    assert model.has_unused_parameters
    found = gradients(model, ((1, 4), (3,)))
    assert len(found) < len(list(model.parameters()))
    assert not network(space, dense=True).has_unused_parameters
    assert found["arch.alpha"][3].count_nonzero() == 2 * 4  # all but those of none
    assert model.derive(keep=1).num_nodes[0] <= 4
    assert model(images(), subnet=space.random(np.random.default_rng(0))).shape == (4, 10)


def test_candidates_of_another_graph() -> None:
    space = LChainSpace((4,), 3, candidates=({1: (0,), 2: (0, 1), 3: (2,), 4: (0, 2, 3)},))
    model = network(space)
    assert [len(weights) for weights in model.edge_weights()[0].values()] == [1, 2, 1, 3]
    assert gradients(model, ((4,),))["arch.beta"][3].all()


@pytest.mark.parametrize("dense", [False, True])
def test_schedule_of_another_graph_is_free_of_interleaving(dense: bool) -> None:
    graph = {1: (0,), 2: (1,), 3: (2,), 4: (1, 3), 5: (4,), 6: (5,), 7: (6,), 8: (2, 5, 7)}
    model = network(LChainSpace((8,), 3, candidates=(graph,)), dense=dense)
    schedule = InterleavingFreeSchedule(model.length)
    for turn in range(schedule.period):
        active = schedule.active(turn, model.nodes)
        alive = [
            (source, node)
            for node, sources in graph.items()
            for source in (sources if node in active[0] else sources[-1:])
        ]
        assert not has_interleaving(alive), f"turn {turn}"
    assert gradients(model, ((8,),))["arch.beta"][7].all()


def test_fresh_weights_are_a_half() -> None:
    model = LChainSupernet(SMALL, 4)
    weights = [weight for stage in model.edge_weights() for node in stage.values() for weight in node.values()]
    assert weights == pytest.approx([0.5] * SMALL.num_edges, abs=1e-4)
    assert len(set(weights)) > 1
    assert model.derive() == Genotype(SMALL.full().stages)


def test_operator_weights_that_are_not_trained() -> None:
    model = network(train_op_weights=False)
    assert [value is model.arch.beta for value in model.architecture_parameters()] == [True]
    assert "arch.alpha" not in gradients(model, PHASES[0])
    assert "arch.alpha" in model.state_dict()


def test_parameters_are_of_one_of_the_two_kinds() -> None:
    model = network()
    both = [*model.weight_parameters(), *model.architecture_parameters()]
    assert {id(value) for value in both} == {id(value) for value in model.parameters()}
    weights, architecture = search_optimizer(model, arch_lr=0.2).param_groups
    assert len(weights["params"]) + len(architecture["params"]) == len(both)
    assert (architecture["clip"], architecture["lr"], architecture["idle"]) == (False, 0.2, "momentum")


def test_copies_and_state_dicts_give_the_same() -> None:
    model = network()
    expected = model.eval()(images(), PHASES[1])
    other = LChainSupernet(SMALL, 4, stem="cifar").double().eval()
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), other):
        assert torch.equal(twin(images(), PHASES[1]), expected)


def test_channels_last_is_the_same() -> None:
    model = network()
    expected = gradients(model, PHASES[3])
    found = gradients(model.to(memory_format=torch.channels_last), PHASES[3])
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=1e-8)


def test_mixed_precision_stays_near() -> None:
    model = network().float().eval()
    exact = model(images(torch.float), PHASES[1])
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images(torch.float), PHASES[1])
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert (half.float() - exact).norm() < 0.05 * exact.norm()
    assert model.arch.beta.grad is not None
    assert model.arch.beta.grad.dtype == torch.float32


def test_compiled_plans() -> None:
    model, compiled = (network(LChainSpace((2,), 2, ("skip", "sconv3"))) for _ in range(2))
    compiled.compile(backend="eager", fullgraph=True)
    for active in (((1,),), ((2,),), ((1,),)):
        found, expected = gradients(compiled, active), gradients(model, active)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-11, rtol=1e-9)
    with torch.no_grad():
        logits = [twin.eval()(images(), ((2,),)) for twin in (compiled, model)]
    torch.testing.assert_close(*logits, atol=1e-12, rtol=1e-12)


def test_distributed_training_finds_all_gradients_in_every_phase(tmp_path: Path) -> None:
    """In a group of one process: its check for parameters without a gradient is that of many."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/join", rank=0, world_size=1)
    try:
        model = network()
        parallel = nn.parallel.DistributedDataParallel(model)
        for active in (*PHASES, NOBODY, PHASES[0]):
            edge_penalty, op_penalty = model.penalties(active)
            (parallel(images(), active).square().sum() + edge_penalty + op_penalty).backward()
    finally:
        torch.distributed.destroy_process_group()
    expected = network()
    for active in (*PHASES, NOBODY, PHASES[0]):
        edge_penalty, op_penalty = expected.penalties(active)
        (expected(images(), active).square().sum() + edge_penalty + op_penalty).backward()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width 0 is no whole number from 1"),
        ({"width": 2.0}, "width 2.0"),
        ({"num_classes": 0}, "num_classes 0 is no whole number from 1"),
        ({"stem": "svhn"}, "unknown stem 'svhn'"),
        ({"space": LChainSpace((2,), 2, ("conv7",))}, "unknown operator 'conv7'"),
        ({"space": LChainSpace((2,), 2, ("skip",)), "legacy_op_indexing": True}, "with 1 operators"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LChainSupernet(**{"space": SMALL, **options})


def test_reference_filling_reaches_all_parameters() -> None:
    """So that reference numbers say something about each of them."""
    model = filled(SMALL, 0)
    fresh = LChainSupernet(SMALL, 8)
    for (name, ours), theirs in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert not torch.equal(ours, theirs), name
