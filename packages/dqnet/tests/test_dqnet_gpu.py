"""Query, network and a run on a CUDA device against the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dqnet_explicit
import pytest
import torch
from dqnet_runs import done
from torch import Tensor

from dqnet import DQnet, RelationBasedQuery, structure_loss
from dqnet.model import ARMS
from vireo.testing import full_float32
from vireo.testing.runs import losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
SMALL: dict[str, Any] = {
    "image_size": 64,
    "vit": {"name": "vit_tiny_patch16", "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2},
    "resnet": {"depth": 50, "layers": [1, 1, 1, 1], "width": 8, "stem_pool": False},
    "window": 3,
    "heads": 4,
    "head_width": 16,
}


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 as on the CPU."""
    with full_float32():
        yield


def some_query(mask_padding: bool = False) -> RelationBasedQuery:
    torch.manual_seed(0)
    query = RelationBasedQuery(96, window=5, heads=4, mask_padding=mask_padding)
    for value in query.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return query


def some_maps(device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 96, 12, 7, generator=generator).to(device).requires_grad_() for _ in range(2)]


def outcome(query: RelationBasedQuery, fuse: Any, device: str) -> list[Tensor]:
    """Output, gradients of both maps and of the tables."""
    query.zero_grad()
    maps = some_maps(device)
    fused = fuse(*maps)
    fused.square().mean().backward()
    gradients: list[Any] = [value.grad for value in (*maps, query.rel_pos_h, query.rel_pos_w)]
    return [part.detach().clone().cpu() for part in (fused, *gradients)]


@pytest.mark.parametrize("mask_padding", [False, True])
def test_query_is_the_plain_form_and_that_of_the_cpu(mask_padding: bool) -> None:
    query = some_query(mask_padding)
    expected = outcome(query, query, "cpu")
    query.to(DEVICE)
    plain = outcome(query, lambda *maps: dqnet_explicit.fuse(query, *maps), DEVICE)
    for ours, theirs, on_cpu in zip(outcome(query, query, DEVICE), plain, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours, on_cpu, atol=1e-5, rtol=1e-4)


def test_query_in_bfloat16_stays_near() -> None:
    query = some_query(mask_padding=True).to(DEVICE)
    exact = query(*some_maps(DEVICE))
    with torch.autocast(DEVICE, torch.bfloat16):
        half = query(*some_maps(DEVICE))
    assert (half.float() - exact).norm() < 0.02 * exact.norm()


def test_compiled_query_stays_near() -> None:
    query = some_query().to(DEVICE)
    expected = outcome(query, query, DEVICE)
    for ours, theirs in zip(outcome(query, torch.compile(query, fullgraph=True), DEVICE), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def step(model: DQnet, device: str, precision: torch.dtype | None = None) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a batch, statistics frozen: those of few images would make small differences large."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 64, 48, generator=generator).to(device)
    masks = (torch.rand(2, 1, 64, 48, generator=generator) > 0.5).float().to(device)
    model.zero_grad()
    with torch.autocast(device, precision, enabled=precision is not None):
        logits = model.to(device).eval()(images)
    loss = structure_loss(logits, masks)
    loss.backward()
    return loss.detach().cpu(), [p.grad.clone().cpu() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("arm", ARMS)
def test_step_is_that_of_the_cpu(arm: Any) -> None:
    torch.manual_seed(0)
    model = DQnet(arm, **SMALL)
    (expected, gradients), (found, others) = step(model, "cpu"), step(model, DEVICE)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_step_in_bfloat16_stays_near() -> None:
    torch.manual_seed(0)
    model = DQnet(**SMALL).to(DEVICE)
    exact, _ = step(model, DEVICE)
    half, gradients = step(model, DEVICE, torch.bfloat16)
    assert abs(half - exact) < 0.03 * exact
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_runs_on_the_device_follow_those_on_the_cpu(tmp_path: Path) -> None:
    for name, accelerator in (("cpu", "cpu"), ("device", DEVICE)):
        done(tmp_path / name, f"run.accelerator={accelerator}")
    expected, found = ([sum(entry.values()) for entry in losses(tmp_path / name)] for name in ("cpu", "device"))
    assert found == pytest.approx(expected, rel=2e-2)
