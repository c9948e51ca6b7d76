"""Super-networks, derived networks, a search and a training on a CUDA device against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from if_nas_runs import train
from if_nas_searches import TINY
from if_nas_supernets import SMALL, filled
from torch.nn import functional as F

from if_nas import DerivedNetwork, InterleavingFreeSchedule, discretization_loss
from if_nas.optim import search_optimizer
from if_nas.supernet import LChainSupernet
from vireo.testing import call_script, full_float32, tensor
from vireo.testing.runs import losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
PHASES = range(4)


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 as on the CPU."""
    with full_float32():
        yield


def search_loss(network: LChainSupernet, phase: int) -> torch.Tensor:
    """Cross entropy and discretisation loss of four images in a phase."""
    device = network.arch.beta.device
    active = InterleavingFreeSchedule(SMALL.length).active(phase, SMALL.nodes)
    logits = network(tensor("input", (4, 3, 64, 64), 0).to(device), active)
    penalty = discretization_loss(network.arch, active, 0.1, 0.1)
    return F.cross_entropy(logits.float(), torch.arange(4, device=device)) + penalty


@pytest.mark.parametrize("phase", PHASES)
def test_loss_and_gradients_are_those_of_the_cpu(phase: int) -> None:
    network = filled(SMALL, 0)
    other = copy.deepcopy(network).to(DEVICE)
    expected, found = search_loss(network, phase), search_loss(other, phase)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)
    for loss in (expected, found):
        loss.backward()
    norms = [torch.stack([p.grad.norm().cpu() for p in n.parameters() if p.grad is not None]) for n in (network, other)]
    torch.testing.assert_close(norms[1], norms[0], rtol=2e-2, atol=1e-3)


def test_steps_are_those_of_the_cpu() -> None:
    """The optimizer of both kinds of weights, with a phase's weights idle."""
    found = []
    for device in ("cpu", DEVICE):
        network = filled(SMALL, 1).to(device)
        optimizer = search_optimizer(network, lr=0.01)
        for phase in (0, 1):
            optimizer.zero_grad()
            search_loss(network, phase).backward()
            optimizer.step()
        found.append(network.arch.beta.detach().cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_bfloat16_and_channels_last_stay_near() -> None:
    network = filled(SMALL, 2).to(DEVICE)
    exact = search_loss(network, 1)
    network.to(memory_format=torch.channels_last)
    with torch.autocast(DEVICE, torch.bfloat16):
        half = search_loss(network, 1)
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)
    half.backward()
    assert network.arch.beta.grad is not None
    assert network.arch.beta.grad.dtype == torch.float32
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())


def test_compiled_plans_are_those_of_eager_execution() -> None:
    network = filled(SMALL, 3).to(DEVICE)
    compiled = copy.deepcopy(network)
    compiled.compile()
    for phase in PHASES:
        torch.testing.assert_close(search_loss(compiled, phase), search_loss(network, phase), rtol=1e-3, atol=1e-3)


def test_derived_network_is_that_of_the_cpu() -> None:
    network = DerivedNetwork(filled(SMALL, 4).derive(keep=2), 8, 10, "cifar").eval()
    images = tensor("input", (2, 3, 32, 32), 0)
    with torch.inference_mode():
        expected = network(images)
        found = copy.deepcopy(network).to(DEVICE)(images.to(DEVICE))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_runs_on_the_device_follow_those_on_the_cpu(tmp_path: Path) -> None:
    for name, accelerator in (("cpu", "cpu"), ("device", DEVICE)):
        train(tmp_path / f"train_{name}", f"run.accelerator={accelerator}")
        folder = f"output_dir={tmp_path / f'search_{name}'}"
        outcome = call_script("if_nas.search", *TINY, folder, f"run.accelerator={accelerator}")
        assert outcome.status == 0, outcome.err
    for kind in ("train", "search"):
        expected, found = ([sum(row.values()) for row in losses(tmp_path / f"{kind}_{n}")] for n in ("cpu", "device"))
        assert len(expected) > 1
        assert found == pytest.approx(expected, rel=2e-2)
