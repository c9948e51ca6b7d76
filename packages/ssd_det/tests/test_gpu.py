"""The detector on a CUDA device against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from detectors import small_detector
from torch import Tensor

from vireo.testing import full_float32

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def batch() -> tuple[Tensor, list[dict[str, Any]]]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2, 3, 96, 128, generator=generator)
    boxes = torch.tensor([[10.0, 12.0, 60.0, 70.0], [50.0, 30.0, 120.0, 90.0]])
    return images, [
        {"boxes": boxes + 2 * i, "labels": torch.tensor([0, 2]), "key": torch.tensor(17 + i), "true_boxes": boxes}
        for i in range(2)
    ]


def on_cuda(targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value.cuda() for name, value in target.items()} for target in targets]


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 as on the CPU."""
    with full_float32():
        yield


def test_losses_equal_the_cpus() -> None:
    model = small_detector().train()
    images, targets = batch()
    expected = model(images, targets)
    actual = copy.deepcopy(model).cuda()(images.cuda(), on_cuda(targets))
    assert set(actual) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].cpu(), value, rtol=2e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_step_and_detection(dtype: torch.dtype) -> None:
    model = small_detector().cuda().train()
    images, targets = batch()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        losses = model(images.cuda(), on_cuda(targets))
        torch.stack([v for k, v in losses.items() if k.startswith("loss_")]).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        model.eval()
        found = model(images.cuda())
        refined = model.refine(images.cuda(), targets)
    assert all(f["boxes"].is_cuda and f["boxes"].dtype == torch.float32 for f in found)
    assert all(r["boxes"].isfinite().all() for r in refined)
