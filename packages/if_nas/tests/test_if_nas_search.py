"""A search leaves what its folder promises, learns when it should, and follows its schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from if_nas_golden import load
from if_nas_searches import DARTS, REPORT, TINY, configuration, search
from torch import Tensor

from if_nas import InterleavingFreeSchedule, RandomSubsetSchedule, read_genotype
from if_nas.history import describe, read_edge_weights
from if_nas.micro_genotype import read_any_genotype
from if_nas.operators import OPERATORS
from if_nas.schedule import every_node
from if_nas.search_build import (
    build_node_schedule,
    build_search_network,
    learning_rates,
    leaves_unused,
    never_reached,
    penalty_weights,
    turn_number,
)
from if_nas.search_load import load_search
from if_nas.supernet import LChainSupernet
from vireo.engine import plain
from vireo.testing.runs import logged, losses, read, weights


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that is finished, with its report."""
    return search(tmp_path_factory.mktemp("search") / "run")


@pytest.fixture
def _without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, lambda *_, **__: None)


def test_folder(run: Path) -> None:
    there = {path.name for path in run.iterdir()}
    assert there >= {"config.yaml", "classes.json", "log.jsonl", "metrics.json", "model.safetensors", "genotype.json"}
    assert there >= {"network.svg", "report.html"}
    assert [path.name for path in sorted((run / "genotypes").iterdir())] == ["epoch_001.json", "epoch_002.json"]
    assert {"arch.beta", "arch.alpha"} <= weights(run).keys()
    assert losses(run)[0].keys() == {"loss_ce", "loss_edge", "loss_op"}


def test_load_search(run: Path) -> None:
    """The network holds the weights of edges, and gives the architecture in the folder."""
    found = load_search(run)
    network = found.network
    assert isinstance(network, LChainSupernet)
    assert not network.training
    torch.testing.assert_close(network.arch.beta.detach(), weights(run)["arch.beta"], rtol=0, atol=0)
    assert network.derive(**plain(found.config.derive)) == read_genotype(run / "genotype.json")
    assert read_genotype(run / "genotypes" / "epoch_002.json") == read_genotype(run / "genotype.json")
    assert network.edge_weights() == read_edge_weights(run / "genotype.json")
    assert read(run / "genotype.json")["epoch"] == 2
    assert read_edge_weights(run / "genotypes" / "epoch_001.json") != network.edge_weights()
    assert len(found.classes) == 6
    assert isinstance(found.schedule, InterleavingFreeSchedule)
    assert found.schedule.period == 3


def test_metrics(run: Path) -> None:
    metrics, genotype = read(run / "metrics.json")["metrics"], read_genotype(run / "genotype.json")
    assert metrics | describe(read_edge_weights(run / "genotype.json")) == metrics
    assert (metrics["depth"], metrics["nodes"]) == (genotype.depth, sum(genotype.num_nodes))
    assert metrics["cost"]["macs"] > metrics["cost"]["params"] > 0
    assert 0 < metrics["cpu_hours"] <= read(run / "metrics.json")["wall_s"] / 3600 + 1e-6
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 100
    first, last = logged(run, "eval")
    assert "top1" not in first["metrics"]  # of the super-network, every 5 epochs and at the end
    assert last["metrics"] == metrics


@pytest.mark.usefixtures("_without_report")
def test_architecture_rests_until_its_epoch(tmp_path: Path, run: Path) -> None:
    """Its rate is 0 before; what the losses add is theirs alone from the epoch behind their start."""
    resting = weights(search(tmp_path, "arch_optim.start_epoch=2"))["arch.beta"]
    assert resting.abs().max() < 1e-4  # as drawn
    assert weights(run)["arch.beta"].abs().max() > 1e-4
    of_run = losses(run)
    assert all(of_step["loss_edge"] == of_step["loss_op"] == 0 for of_step in of_run[:3])
    assert all(of_step["loss_edge"] > 0 and of_step["loss_op"] > 0 for of_step in of_run[3:])


@pytest.mark.usefixtures("_without_report")
def test_only_edges_are_learned_as_in_the_authors_script(tmp_path: Path) -> None:
    folder = search(tmp_path, "model.train_op_weights=false", "arch_optim.start_epoch=0")
    assert weights(folder)["arch.alpha"].abs().max() < 1e-4
    assert weights(folder)["arch.beta"].abs().max() > 1e-4


@pytest.mark.usefixtures("_without_report")
@pytest.mark.parametrize("turn", ["epoch", 2])
def test_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: str | int) -> None:
    """A phase an epoch, or so many steps; evaluation is in the last step's."""
    seen: list[tuple[bool, Any]] = []
    forward = LChainSupernet.forward

    def watched(self: LChainSupernet, images: Tensor, active: Any = None, subnet: Any = None) -> Tensor:
        seen.append((self.training, active))
        return forward(self, images, active, subnet)

    monkeypatch.setattr(LChainSupernet, "forward", watched)
    search(tmp_path, f"schedule.turn={turn}", "epochs=3")
    schedule = InterleavingFreeSchedule(2)
    numbers = [0, 0, 0, 1, 1, 1, 2, 2, 2] if turn == "epoch" else [0, 0, 1, 1, 2, 2, 3, 3, 4]
    wanted = [schedule.active(number, (2, 3, 2)) for number in numbers]
    assert [active for training, active in seen if training] == wanted
    evaluated = [active for training, active in seen if not training and active is not None]
    assert evaluated == wanted[-1:]


@pytest.mark.parametrize(
    ("name", "period", "wanted"),
    [("interleaving_free", None, 3), ("interleaving_free", 2, 2), ("dnas", None, 1), ("random_subset", None, 3)],
)
def test_schedules(name: str, period: int | None, wanted: int) -> None:
    config = configuration(*TINY, f"schedule.name={name}", f"schedule.period={'null' if period is None else period}")
    network = build_search_network(config, 6)
    schedule = build_node_schedule(config.schedule, network, seed=4)
    assert schedule.period == wanted
    if name == "dnas":
        assert schedule.active(5, network.nodes) == every_node(network.nodes)
    if name == "random_subset":
        assert isinstance(schedule, RandomSubsetSchedule)
        assert schedule.active(7, (9, 9)) == RandomSubsetSchedule(3, 4).active(7, (9, 9))


def test_what_is_never_reached() -> None:
    assert never_reached(configuration()) == ""
    late = never_reached(configuration("epochs=12"))
    assert "arch_optim.start_epoch=12: the architecture never learns" in late
    assert "discretization.start_epoch=18: its losses stay 0" in late
    off = ["epochs=12", "arch_optim.lr=0", "discretization.edge_weight=0", "discretization.op_weight=0"]
    assert never_reached(configuration(*off)) == ""


def test_parameters_without_gradients_are_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's convolutions of edges are stacked, so all have a gradient; an operator of one's own is not."""
    assert not leaves_unused(configuration(*TINY))
    assert not leaves_unused(configuration(*DARTS))
    monkeypatch.setitem(OPERATORS, "conv1", lambda channels: torch.nn.Conv2d(channels, channels, 1))
    assert leaves_unused(configuration(*TINY, "space.ops=[skip,conv1]"))


@pytest.mark.parametrize("settings", [TINY, DARTS])
def test_memory_layout(settings: list[str]) -> None:
    """It changes no value of the network."""
    torch.manual_seed(0)
    plain_network = build_search_network(configuration(*settings), 6).eval()
    network = build_search_network(configuration(*settings, "model.channels_last=true"), 6).eval()
    assert any(
        parameter.is_contiguous(memory_format=torch.channels_last) and not parameter.is_contiguous()
        for parameter in network.parameters()
        if parameter.dim() == 4
    )
    network.load_state_dict(plain_network.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(images), plain_network(images), rtol=1e-4, atol=1e-5)


def test_turn_number() -> None:
    assert [turn_number("epoch", epoch, 100) for epoch in (0, 7)] == [0, 7]
    assert [turn_number(20, 3, step) for step in (0, 19, 20, 65)] == [0, 0, 1, 3]


def test_published_rates_and_penalties() -> None:
    """Section 4: the weights' rate falls by epochs, the architecture's is 0 until epoch 50; section 3.5: penalties."""
    config = configuration("+experiment=search_imagenet100_l8")
    weight, arch = learning_rates(config, steps_per_epoch=7)
    wanted = load("misc")["search_linear_lr"]
    for epoch in (0, 49, 50, 99):
        for step in (7 * epoch, 7 * epoch + 6):
            assert config.optim.lr * weight(step) == pytest.approx(float(wanted[epoch]), rel=1e-6)
            assert config.arch_optim.lr * arch(step) == (0.1 if epoch >= 50 else 0)
        ramp = max(0, epoch - 65) / 60
        assert penalty_weights(config.discretization, epoch) == pytest.approx((ramp / 40, ramp / 30), rel=1e-6)


def test_cells(tmp_path: Path) -> None:
    """The same script searches in the micro space."""
    folder = search(tmp_path / "run", settings=DARTS)
    genotype = read_any_genotype(folder / "genotype.json")
    found = load_search(folder)
    assert found.network.derive() == genotype
    metrics = read(folder / "metrics.json")["metrics"]
    assert metrics["nodes"] == 4  # two of each kind of cell
    assert metrics["cost"]["macs"] > 0
    assert found.network.edge_weights() == read_edge_weights(folder / "genotype.json")
    assert (folder / "report.html").is_file()
