"""The super-network of the micro space: phases, one architecture in it, derivation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from if_nas.auxiliary import Variant
from if_nas.micro_genotype import MICRO_GENOTYPES, MicroGenotype
from if_nas.micro_network import MicroNetwork
from if_nas.micro_space import MicroSpace
from if_nas.micro_supernet import MicroSupernet
from if_nas.schedule import InterleavingFreeSchedule, has_interleaving
from vireo.errors import InputError

LIGHT = MicroSpace(4, ("none", "skip_connect", "dil_conv_3x3"))


def images(batch: int = 2, side: int = 8) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def supernet() -> MicroSupernet:
    torch.manual_seed(0)
    return MicroSupernet(LIGHT, width=2, num_classes=4, cells=3)


def test_the_usual_period_gives_each_node_a_phase_free_of_interleaving(supernet: MicroSupernet) -> None:
    """Edges with a gradient are the candidates of the phase's node and the direct predecessors of all others."""
    schedule = InterleavingFreeSchedule(supernet.length)
    assert schedule.period == 4
    edges = LIGHT.edges()
    seen = set()
    for turn in range(schedule.period):
        active = schedule.active(turn, supernet.nodes)
        assert active == ((turn + 1,), (turn + 1,))
        supernet.zero_grad()
        supernet(images(), active).square().sum().backward()
        wanted = {(s, n) for s, n in edges if n == turn + 1 or s == n - 1}
        for cell in supernet.cells:
            ran = {
                edge
                for edge, mixed in zip(edges, cell.edges)  # type: ignore[arg-type]
                if any(p.grad.any() for p in mixed.parameters())
            }
            assert ran == wanted
        for alpha in supernet.architecture_parameters():
            assert alpha.grad is not None
            assert {edge for edge, row in zip(edges, alpha.grad) if row.any()} == wanted
        assert all(parameter.grad is not None for parameter in supernet.parameters())
        assert not supernet.has_unused_parameters
        assert not has_interleaving(wanted)
        seen |= wanted
    assert seen == set(edges)


def test_without_phases_every_edge_runs(supernet: MicroSupernet) -> None:
    supernet.zero_grad()
    supernet(images()).square().sum().backward()
    gradients = [parameter.grad for name, parameter in supernet.named_parameters() if ".edges." in name]
    assert all(gradient is not None and gradient.any() for gradient in gradients)


def test_statistics_of_idle_edges_rest(supernet: MicroSupernet) -> None:
    def batches() -> list[int]:
        norms = [m for m in supernet.get_submodule("cells.0.edges.0").modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        return [int(norm.num_batches_tracked) for norm in norms]  # type: ignore[arg-type]

    before = batches()
    supernet(images(), ((2,), (2,)))
    assert batches() == before
    supernet(images(), ((1,), (2,)))
    assert batches() == [count + 1 for count in before]


def _choose(supernet: MicroSupernet, genotype: MicroGenotype) -> None:
    """Make the softmax of each chosen edge all but one-hot, and give the other edges to ``none``."""
    space = supernet.space
    for alpha, nodes in ((supernet.alpha_normal, genotype.normal), (supernet.alpha_reduce, genotype.reduce)):
        chosen = {(source - 1, node): op for node, inputs in enumerate(nodes, 1) for op, source in inputs}
        with torch.no_grad():
            alpha.zero_()
            for row, edge in enumerate(space.edges()):
                alpha[row, space.ops.index(chosen.get(edge, "none"))] = 100


def _with_weights_of(supernet: MicroSupernet, genotype: MicroGenotype) -> MicroNetwork:
    settings = supernet.width, supernet.num_classes, len(supernet.cells), supernet.variant
    network = MicroNetwork(genotype, *settings)
    content = {
        key: value
        for key, value in supernet.state_dict().items()
        if ".edges." not in key and not key.startswith("alpha_")
    }
    candidates = [op for op in supernet.space.ops if op != "none"]
    rows = {edge: row for row, edge in enumerate(supernet.space.edges())}
    for index, reduction in enumerate(supernet.reductions):
        nodes = genotype.reduce if reduction else genotype.normal
        chosen = [(op, rows[source - 1, node]) for node, inputs in enumerate(nodes, 1) for op, source in inputs]
        for number, (op, row) in enumerate(chosen):
            operator = supernet.get_submodule(f"cells.{index}.edges.{row}.ops.{candidates.index(op)}")
            if "pool" not in op:
                values = operator.state_dict()
                content |= {f"cells.{index}._ops.{number}.{key}": value for key, value in values.items()}
    keys = network.load_state_dict(content, strict=False)
    assert not keys.unexpected_keys
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert {key.rpartition(".")[0] for key in keys.missing_keys} <= set(norms)  # weight 1 and bias 0, as they start
    return network


@pytest.mark.parametrize(("stem", "side"), [("cifar", 16), ("imagenet", 64)])
def test_one_architecture_in_it_is_the_network_of_that_architecture(stem: Variant, side: int) -> None:
    """With a softmax that chooses one architecture, super-network and derived network are the same function."""
    genotype = MICRO_GENOTYPES["pc_darts_cifar"]
    torch.manual_seed(1)
    supernet = MicroSupernet(width=2, num_classes=4, cells=3, stem=stem).eval()
    _choose(supernet, genotype)
    derived = supernet.derive()
    for found, wanted in ((derived.normal, genotype.normal), (derived.reduce, genotype.reduce)):
        assert [set(inputs) for inputs in found] == [set(inputs) for inputs in wanted]
    network = _with_weights_of(supernet, genotype).eval()
    with torch.no_grad():
        torch.testing.assert_close(supernet(images(2, side)), network(images(2, side)), rtol=1e-3, atol=1e-4)


def test_weights_of_edges_are_those_of_the_strongest_operator(supernet: MicroSupernet) -> None:
    normal = supernet.alpha_normal.detach().clone()
    with torch.no_grad():
        supernet.alpha_normal.zero_()
        supernet.alpha_normal[4] = torch.tensor([0.25, 0.25, 0.5]).log()  # from 1 to 2
    stages = supernet.edge_weights()
    assert [sorted(stage) for stage in stages] == [[1, 2, 3, 4]] * 2
    assert sorted(stages[0][3]) == [-1, 0, 1, 2]
    assert stages[0][2][1] == pytest.approx(0.5)
    assert stages[0][2][0] == pytest.approx(1 / 3)
    with torch.no_grad():
        supernet.alpha_normal.copy_(normal)


def test_parameters_are_of_the_architecture_or_of_the_network(supernet: MicroSupernet) -> None:
    arch, weights = supernet.architecture_parameters(), supernet.weight_parameters()
    assert [tuple(alpha.shape) for alpha in arch] == [(14, 3), (14, 3)]
    assert len(arch) + len(weights) == len(list(supernet.parameters()))
    assert not {id(alpha) for alpha in arch} & {id(weight) for weight in weights}
    assert [float(term) for term in supernet.penalties(((1,), (1,)))] == [0, 0]


def test_mixed_precision(supernet: MicroSupernet) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = supernet(images(), ((3,), (3,)))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_keeping_other_than_two_inputs_is_refused(supernet: MicroSupernet) -> None:
    assert supernet.derive(keep=2) == supernet.derive()
    with pytest.raises(InputError, match="nodes of a cell keep two"):
        supernet.derive(keep=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"cells": 2}, "2 cells"), ({"width": 0}, "width 0"), ({"stem": "tiny"}, "unknown variant 'tiny'")],
)
def test_super_networks_that_cannot_be_built(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MicroSupernet(LIGHT, **settings)  # type: ignore[arg-type]
