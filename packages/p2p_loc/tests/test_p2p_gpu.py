"""The networks and a run on a CUDA device against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from p2p_networks import KINDS, batch, narrow, on_device
from p2p_runs import done
from torch import Tensor

from p2p_loc.assign import assign_by_iou, assign_points
from vireo.testing import full_float32
from vireo.testing.runs import losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 as on the CPU."""
    with full_float32():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_the_cpu(kind: str) -> None:
    model = narrow(kind).train()
    images, targets = batch()
    other = copy.deepcopy(model).to(DEVICE)
    expected, found = model(images, targets), other(images.to(DEVICE), on_device(targets, DEVICE))
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-3, atol=1e-4)
    for computed in (expected, found):
        torch.stack(list(computed.values())).sum().backward()
    norms = [torch.stack([p.grad.norm().cpu() for p in m.parameters()]) for m in (model, other)]
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_those_of_the_cpu(kind: str) -> None:
    model = narrow(kind, score_threshold=0.0).eval()
    images, targets = batch()
    sizes = [target["size"] for target in targets]
    with torch.inference_mode():
        expected = model.candidates(images, sizes)
        found = copy.deepcopy(model).to(DEVICE).candidates(images.to(DEVICE), sizes)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.boxes.device.type == DEVICE
        for a, b in zip(ours, theirs, strict=True):
            # the best locations of a level may have changed places
            torch.testing.assert_close(a.cpu().sort(0).values, b.sort(0).values, rtol=1e-3, atol=1e-2)


def test_objects_are_those_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, strides = [(-(-96 // s), -(-128 // s)) for s in (4, 8, 16)], (4, 8, 16)
    centre = (torch.rand(200, 2, generator=generator) * torch.tensor([128.0, 96.0])).round()
    boxes = torch.cat([centre - 8, centre + 8], 1)
    candidates = boxes + torch.randn(200, 4, generator=generator).round()

    def assigned(device: str) -> list[Tensor]:
        first = assign_points(boxes.to(device), sizes, strides, 2.0, pos_num=2)
        return [first.cpu(), assign_by_iou(candidates.to(device), boxes.to(device))[0].cpu()]

    for ours, theirs in zip(assigned(DEVICE), assigned("cpu"), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_step_in_bfloat16_and_channels_last_stays_near(kind: str) -> None:
    model = narrow(kind).to(DEVICE).train()
    images, targets = batch()
    images, targets = images.to(DEVICE), on_device(targets, DEVICE)
    exact = model(images, targets)
    model.to(memory_format=torch.channels_last)
    with torch.autocast(DEVICE, torch.bfloat16):
        half = model(images.to(memory_format=torch.channels_last), targets)
    for name, value in exact.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], value, rtol=0.1, atol=0.02)
    torch.stack(list(half.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_compiled_backbone_and_pyramid_stay_near() -> None:
    model = narrow("adap").to(DEVICE).eval()
    images = batch()[0].to(DEVICE)
    with torch.inference_mode():
        expected = model.extract(images)
        compiled = torch.compile(model.extract, fullgraph=True)(images)
    for ours, theirs in zip(compiled, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_runs_on_the_device_follow_those_on_the_cpu(tmp_path: Path) -> None:
    """The first round: later ones have labels that depend on which of nearly equal detections is kept."""
    for name, accelerator in (("cpu", "cpu"), ("device", DEVICE)):
        done(tmp_path / name, f"run.accelerator={accelerator}", "model.score_threshold=0.5")
    expected, found = ([sum(row.values()) for row in losses(tmp_path / name / "round_0")] for name in ("cpu", "device"))
    assert len(expected) > 1
    assert found == pytest.approx(expected, rel=2e-2)
