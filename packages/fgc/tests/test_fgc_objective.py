"""The objective beside the cross-entropy, the controller of rho, and checkpoints in the authors' layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fgc_golden import load_json
from torch import Tensor, nn

from fgc.blocks import gated_blocks
from fgc.build import build_optimizer
from fgc.coupling import FeatureGateCoupling
from fgc.macs import count_macs
from fgc.objective import GateObjective, RhoController, attach_objective, default_coupled_blocks
from fgc.official import from_official, is_bank, to_official
from fgc.resnet import GatedResNet, gated_resnet20, gated_resnet32, gated_resnet56
from fgc.schedules import LossWeights
from fgc.shaping import batch_shaping_loss, expected_gate_rate
from vireo.engine.checkpoint import read
from vireo.errors import InputError

SAMPLES = 30
NETWORKS: dict[str, Callable[[], GatedResNet]] = {
    "resnet20": gated_resnet20,
    "resnet32": gated_resnet32,
    "resnet56": gated_resnet56,
}


def build(coupled: list[int] | None = None, controller: RhoController | None = None) -> tuple[nn.Module, GateObjective]:
    """A small network of three blocks with its objective, after a forward pass of four images."""
    torch.manual_seed(0)
    network = GatedResNet(1, 5, width=4)
    widths = [block.gate.out_channels for block in gated_blocks(network)]
    chosen = [1, 2] if coupled is None else coupled
    options = {"num_neighbors": 3, "warmup_epochs": 1}
    objective = GateObjective(count_macs(network, (8, 8)), widths, chosen, SAMPLES, options, controller)
    attach_objective(network, objective)
    network.train()(torch.randn(4, 3, 8, 8))
    return network, objective


INDICES = torch.tensor([3, 0, 29, 7])


def banks(objective: GateObjective) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in objective.state_dict().items()}


def test_losses_are_the_weighted_sums_over_blocks() -> None:
    network, objective = build()
    blocks = gated_blocks(network)
    logits = [block.gate.logits for block in blocks if block.gate.logits is not None]
    expected = 0.0
    for number in (1, 2):
        reference = FeatureGateCoupling(SAMPLES, logits[number].shape[1], 3, warmup_epochs=1)
        reference.load_state_dict(objective.couplings[str(number)].state_dict())
        feature = blocks[number].feature
        assert feature is not None
        expected += reference(feature, logits[number], INDICES, 2).item()
    losses, monitors = objective.losses(blocks, LossWeights(0.6, 0.4, 0.003, 2), INDICES)
    assert list(losses) == ["loss_l0", "loss_bs", "loss_fgc"]
    assert losses["loss_fgc"].item() == pytest.approx(0.003 * expected, rel=1e-5)
    assert losses["loss_l0"].item() == pytest.approx(0.4 * expected_gate_rate(logits).item(), rel=1e-6)
    of_blocks = sum(batch_shaping_loss(z).item() for z in logits)
    assert losses["loss_bs"].item() == pytest.approx(0.6 * of_blocks, rel=1e-5)
    assert float(monitors["rho"]) == pytest.approx(0.4)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for block in blocks for p in block.gate.parameters())


def test_pruning_of_a_batch_is_that_of_its_hard_gates() -> None:
    network, objective = build()
    blocks = gated_blocks(network)
    _, monitors = objective.losses(blocks, LossWeights(0, 0), INDICES)
    rates = [float((block.gate.logits > 0).float().mean()) for block in blocks if block.gate.logits is not None]
    assert float(monitors["pruning"]) == pytest.approx(count_macs(network, (8, 8), rates).pruning, abs=1e-5)
    assert "rho" not in monitors


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        (LossWeights(0, 0), []),
        (LossWeights(0.5, 0), ["loss_bs"]),
        (LossWeights(0, 0.1), ["loss_l0"]),
        (LossWeights(0, 0, kappa=0.0, coupling_epoch=3), []),
        (LossWeights(0, 0, kappa=0.1, coupling_epoch=0), []),
    ],
)
def test_a_loss_without_weight_is_left_out_and_writes_no_bank(weights: LossWeights, names: list[str]) -> None:
    network, objective = build()
    before = banks(objective)
    losses, _ = objective.losses(gated_blocks(network), weights, INDICES)
    assert list(losses) == names
    assert all(torch.equal(value, before[name]) for name, value in banks(objective).items())


def test_only_rows_of_the_batch_change() -> None:
    network, objective = build()
    before = banks(objective)
    objective.losses(gated_blocks(network), LossWeights(0, 0, 0.1, 1), INDICES)
    for name, value in banks(objective).items():
        changed = (value != before[name]).any(1).nonzero().flatten()
        assert changed.tolist() == sorted(INDICES.tolist()), name
        torch.testing.assert_close(value[INDICES].norm(dim=1), torch.ones(4))


def test_an_evaluation_leaves_the_banks_alone() -> None:
    network, objective = build()
    before = banks(objective)
    with torch.no_grad():
        network.eval()(torch.randn(2, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in banks(objective).items())


@pytest.mark.parametrize("wrong", [[3], [-1], [1, 1]])
def test_blocks_that_there_are_not(wrong: list[int]) -> None:
    with pytest.raises(InputError, match=r"coupling.blocks: .* does not name different blocks of 0 to 2"):
        build(wrong)


def test_default_blocks_are_the_last_two() -> None:
    assert default_coupled_blocks(gated_resnet20()) == [7, 8]
    assert default_coupled_blocks(gated_resnet56()) == [25, 26]


def test_the_objective_is_part_of_the_network_but_of_no_optimizer() -> None:
    network, _ = build(controller=RhoController(0.5, 1.0))
    names = {name for name in network.state_dict() if name.startswith("objective.")}
    assert len(names) == 4 + 4  # two banks of each coupling; the state of the controller
    assert network.training_only == ("objective.",)

    class Optim:
        lr, momentum, weight_decay = 0.1, 0.9, 5e-4

    groups = build_optimizer(network, Optim).param_groups
    chosen = {id(p) for group in groups for p in group["params"]}
    assert chosen == {id(p) for p in network.parameters()}
    of_gates = {id(p) for block in gated_blocks(network) for p in block.gate.parameters()}
    assert {id(p) for p in groups[0]["params"]} == of_gates
    ignored = network._ddp_params_and_buffers_to_ignore
    assert names < set(ignored)  # type: ignore[arg-type]


def test_controller_goes_up_below_and_down_above_its_target() -> None:
    for pruning, sign in ((0.45, 1), (0.55, -1)):
        controller = RhoController(0.5, 1.5)
        assert float(controller.rho) == pytest.approx(1.5)
        controller.observe(torch.tensor(pruning))
        first = float(controller.rho)
        for _ in range(50):
            controller.observe(torch.tensor(pruning))
        assert sign * (first - 1.5) > 0
        assert sign * (float(controller.rho) - first) > 0


def test_controller_lets_pruning_rise_in_a_line() -> None:
    """Half-way of the ramp half of the way is asked for: a network that is there feels the rho it began with."""
    controller = RhoController(0.6, 1.5, ramp_steps=10)
    for step in range(1, 11):
        controller.observe(torch.tensor(0.2 if step == 1 else 0.2 + 0.04 * step))
    assert float(controller.error) == pytest.approx(0, abs=1e-6)
    controller.observe(torch.tensor(0.6))
    assert float(controller.error) == pytest.approx(0, abs=1e-6)
    assert float(controller.rho) == pytest.approx(1.5 * math.exp(0.1 * 0.04))  # the first step lagged by 0.04


def test_controller_stays_in_bounds_and_comes_back() -> None:
    controller = RhoController(0.5, 1.0, gain=10.0)
    for _ in range(100):
        controller.observe(torch.tensor(-0.5))
    assert float(controller.rho) == pytest.approx(100)
    controller.observe(torch.tensor(0.9))
    assert float(controller.rho) < 10  # what it summed up at the bound does not hold it there
    for _ in range(100):
        controller.observe(torch.tensor(1.0))
    assert float(controller.rho) == pytest.approx(1e-3)


def test_controller_settles_a_plant_at_its_target() -> None:
    """Pruning answers the pressure with a delay, as gates do."""
    controller, pruning = RhoController(0.55, 0.3), torch.tensor(0.1)
    for _ in range(2000):
        pruning = pruning + 0.02 * (torch.sigmoid(controller.rho.log()) - pruning)
        controller.observe(pruning)
    assert float(pruning) == pytest.approx(0.55, abs=0.02)


def test_controller_state_is_restored() -> None:
    controller = RhoController(0.5, 1.0)
    controller.observe(torch.tensor(0.1))
    other = RhoController(0.5, 1.0)
    other.load_state_dict(controller.state_dict())
    assert torch.equal(other.rho, controller.rho)


@pytest.mark.parametrize("target", [0, 1, 1.5, -0.2])
def test_targets_that_are_no_ratio(target: float) -> None:
    with pytest.raises(InputError, match="is no pruning ratio"):
        RhoController(target, 1.0)


# ---- checkpoints in the authors' layout (section 7) ----


def with_banks(network: nn.Module, samples: int, blocks: tuple[int, ...] = (7, 8)) -> GateObjective:
    widths = [block.gate.out_channels for block in gated_blocks(network)]
    return attach_objective(network, GateObjective(count_macs(network, (32, 32)), widths, blocks, samples))


def test_layout_with_banks() -> None:
    """``resnet20_fgc_cifar10.keys.json``: blocks 7 and 8, 50,000 images."""
    network = gated_resnet20()
    with_banks(network, 50_000)
    own = {
        key: {"shape": list(value.shape), "dtype": str(value.dtype)[6:]} for key, value in to_official(network).items()
    }
    assert own == load_json("resnet20_fgc_cifar10.keys")
    assert torch.equal(to_official(network)["layer3.1.gate.gate_mb.params"], torch.tensor([0.07, 0.5]))


@pytest.mark.parametrize(("name", "entries"), [("resnet20", 188), ("resnet32", 308), ("resnet56", 548)])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_checkpoint_loads_strictly(tmp_path: Path, name: str, entries: int, prefix: str) -> None:
    """As the authors save it, with their optimizer's state, read without executing anything."""
    torch.manual_seed(1)
    source = NETWORKS[name]()
    gates = [p for key, p in source.named_parameters() if ".gate." in key]
    rest = [p for key, p in source.named_parameters() if ".gate." not in key]
    groups: list[dict[str, Any]] = [{"params": gates, "weight_decay": 0.0}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, 1e-4, 0.9, weight_decay=5e-4, nesterov=True)
    source(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    state = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    assert len(state) == entries
    content = {"epoch": 100, "arch": name, "best_acc1": 82.8, "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / f"{name}-99-BAS.pth")

    target = NETWORKS[name]()
    checkpoint = read(tmp_path / f"{name}-99-BAS.pth")
    assert (checkpoint["epoch"], len(checkpoint["optimizer"]["state"])) == (100, len(gates) + len(rest))
    assert from_official(target, checkpoint) == []
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(target.eval()(images), source.eval()(images))


def test_banks_go_both_ways() -> None:
    source, target, plain = gated_resnet20(), gated_resnet20(), gated_resnet20()
    with_banks(source, SAMPLES)
    with_banks(target, SAMPLES)
    official = to_official(source)
    left_out = from_official(target, {"state_dict": official})
    assert left_out == ["layer3.1.gate.gate_mb.params", "layer3.2.gate.gate_mb.params"]
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key

    left_out = from_official(plain, official)
    assert len(left_out) == 6
    assert all(is_bank(key) for key in left_out)
    assert to_official(plain).keys() == official.keys() - set(left_out)


def test_our_own_checkpoints_load_with_and_without_banks() -> None:
    source, target, plain = gated_resnet20(), gated_resnet20(), gated_resnet20()
    with_banks(source, SAMPLES)
    with_banks(target, SAMPLES)
    content = {"model": source.state_dict(), "epoch": 3}
    assert from_official(target, content) == []
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
    assert len(from_official(plain, content)) == 4
    assert torch.equal(plain.linear.weight, source.linear.weight)


def test_weights_without_banks_leave_those_of_the_network() -> None:
    network = gated_resnet20()
    objective = with_banks(network, SAMPLES)
    before = banks(objective)
    assert from_official(network, gated_resnet20().state_dict()) == []
    assert all(torch.equal(value, before[name]) for name, value in banks(objective).items())


def test_keys_that_do_not_fit_are_listed_by_kind() -> None:
    state: dict[str, Any] = dict(gated_resnet20().state_dict())
    state["fc.bias"] = state.pop("linear.bias")
    state["layer1.0.gate.mlp.fc1.weight"] = torch.zeros(8, 16, 1, 1)
    network = gated_resnet20()
    before = network.conv1.weight.clone()
    with pytest.raises(InputError) as caught:
        from_official(network, {"state_dict": state}, "x.pth")
    message = str(caught.value)
    for words in (
        "x.pth: ",
        "1 missing: linear.bias",
        "1 unexpected: fc.bias",
        "1 misshaped: layer1.0.gate.mlp.fc1.weight (file (8, 16, 1, 1), model (16, 16, 1, 1))",
    ):
        assert words in message
    assert torch.equal(network.conv1.weight, before)


def test_banks_of_another_training_set_do_not_fit() -> None:
    source, target = gated_resnet20(), gated_resnet20()
    with_banks(source, SAMPLES)
    with_banks(target, SAMPLES + 1)
    with pytest.raises(InputError, match="4 misshaped"):
        from_official(target, to_official(source))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {"epoch": 3}}])
def test_a_file_without_a_state_dict(content: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="holds no state dict"):
        from_official(gated_resnet20(), content)
