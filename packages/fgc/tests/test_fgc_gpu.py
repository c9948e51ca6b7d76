"""Networks, losses, banks and training on a CUDA device against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fgc_command_line import GENERATED, call, losses, read, train
from torch import Tensor

from fgc.blocks import gated_blocks
from fgc.gate import gate_noise, gates_of
from fgc.macs import count_macs
from fgc.objective import GateObjective, RhoController, attach_objective
from fgc.resnet import GatedResNet
from fgc.schedules import LossWeights
from vireo.testing import full_float32

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WEIGHTS = LossWeights(0.6, 0.4, 0.02, 2)


def network_with_objective(controller: bool = False) -> GatedResNet:
    torch.manual_seed(0)
    network = GatedResNet(2, 5, width=8)
    widths = [block.gate.out_channels for block in gated_blocks(network)]
    options = {"num_neighbors": 4, "warmup_epochs": 1}
    chosen = RhoController(0.5, 1.0) if controller else None
    attach_objective(network, GateObjective(count_macs(network, (16, 16)), widths, [4, 5], 40, options, chosen))
    return network.train()


def step(network: GatedResNet, device: str) -> dict[str, Tensor]:
    """Losses and gradients of one step."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 3, 16, 16, generator=generator).to(device)
    labels = torch.randint(5, (12,), generator=generator).to(device)
    indices = torch.randperm(40, generator=generator)[:12].to(device)
    with gate_noise(network, indices * 7 + 1):
        logits = network(images)
    objective = network.objective
    assert isinstance(objective, GateObjective)
    found, _ = objective.losses(gated_blocks(network), WEIGHTS, indices)
    found["loss_ce"] = F.cross_entropy(logits, labels)
    torch.stack(list(found.values())).sum().backward()
    return found


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 as on the CPU."""
    with full_float32():
        yield


def test_a_step_equals_the_cpus() -> None:
    network = network_with_objective()
    other = copy.deepcopy(network).cuda()
    expected, actual = step(network, "cpu"), step(other, "cuda")
    for ours, theirs in zip(gates_of(other), gates_of(network)):
        assert ours.logits is not None
        assert theirs.logits is not None
        torch.testing.assert_close(ours.logits.cpu(), theirs.logits, rtol=1e-3, atol=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].cpu(), value, rtol=1e-3, atol=1e-5, msg=name)
    for (name, a), b in zip(network.named_parameters(), other.parameters()):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=1e-2, atol=1e-3 * float(a.grad.abs().max()), msg=name)
    for name, bank in network.state_dict().items():
        if name.startswith("objective."):
            torch.testing.assert_close(other.state_dict()[name].cpu(), bank, rtol=1e-3, atol=1e-4, msg=name)


def test_a_step_waits_for_nothing() -> None:
    """No loss, bank or controller reads from the device; the search and the update included."""
    network = network_with_objective(controller=True).cuda()
    step(network, "cuda")
    indices = torch.arange(12, device="cuda")
    images = torch.randn(12, 3, 16, 16, device="cuda")
    with torch.autocast("cuda", torch.bfloat16), gate_noise(network, indices):
        network(images)
    objective = network.objective
    assert isinstance(objective, GateObjective)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, _ = objective.losses(gated_blocks(network), WEIGHTS, indices)
        torch.stack(list(found.values())).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [[], ["run.precision=bf16-mixed"], ["compile=true"], ["model.channels_last=true"]])
def test_training_and_evaluation(tmp_path: Path, options: list[str]) -> None:
    train(tmp_path, *options)
    assert len(losses(tmp_path)) == 12
    precision = [option.partition(".")[2] for option in options if option.startswith("run.precision")]
    outcome = call("eval", f"run={tmp_path}", *precision)
    assert outcome.status == 0, outcome.err
    measured, logged = read(tmp_path / "eval.json")["metrics"], read(tmp_path / "metrics.json")["metrics"]
    assert measured["top1_error"] == pytest.approx(logged["top1_error"], abs=5)
    assert measured["pruning"] == pytest.approx(logged["pruning"], abs=0.02)


def test_first_losses_equal_the_cpus(tmp_path: Path) -> None:
    """Pictures, order, augmentation, noise and initial weights are the same on both; later steps drift."""
    cpu, cuda = tmp_path / "cpu", tmp_path / "cuda"
    for folder, accelerator in ((cpu, "cpu"), (cuda, "cuda")):
        outcome = call("train", *GENERATED, "epochs=1", f"output_dir={folder}", f"run.accelerator={accelerator}")
        assert outcome.status == 0, outcome.err
    assert losses(cuda)[0] == pytest.approx(losses(cpu)[0], rel=1e-3)
