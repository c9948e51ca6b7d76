"""Teachers, students and runs on a CUDA device against the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from g2sd_generic_runs import distill, pretrain
from torch import Tensor, nn

from g2sd import (
    DistilledVisionTransformer,
    FrozenTeacher,
    GenericDistiller,
    GenericStudent,
    MaskedAutoencoder,
    SegmentationViT,
    ViTDet,
)
from g2sd.generic import GenericOutput
from g2sd.pretraining import compile_transformer
from vireo.testing import full_float32
from vireo.testing.runs import losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
IMAGES: dict[str, Any] = {"img_size": 32, "patch_size": 4}
ENCODER: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}
DECODER: dict[str, Any] = {"decoder_dim": 32, "decoder_depth": 3, "decoder_heads": 2}


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 as on the CPU."""
    with full_float32():
        yield


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def noise() -> Tensor:
    return torch.rand(4, 64, generator=torch.Generator().manual_seed(1))


def distiller(precision: str) -> GenericDistiller:
    torch.manual_seed(0)
    teacher = MaskedAutoencoder(**IMAGES, **ENCODER, **DECODER)
    sizes = {**ENCODER, "embed_dim": 32}
    student = GenericStudent(**IMAGES, **sizes, **DECODER, teacher_dim=32, teacher_encoder_dim=64, encoder_weight=0.5)
    return GenericDistiller(teacher, student, 2, precision)


def step(model: GenericDistiller, device: str) -> tuple[GenericOutput, list[Tensor]]:
    output = model.to(device)(images().to(device), noise().to(device))
    output.loss.backward()
    return output, [p.grad.cpu() for p in model.parameters() if p.grad is not None]


def test_generic_distillation_is_that_of_the_cpu() -> None:
    (expected, gradients), (found, others) = (step(distiller("32"), device) for device in ("cpu", DEVICE))
    torch.testing.assert_close(found.loss.cpu(), expected.loss, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_teacher_in_bfloat16_stays_near_and_its_answers_are_float32() -> None:
    exact, _ = step(distiller("32"), DEVICE)
    half, gradients = step(distiller("bf16"), DEVICE)
    assert abs(half.loss.item() - exact.loss.item()) < 0.03 * exact.loss.item()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    network = nn.Linear(64, 64).to(DEVICE)
    exact_answer, answer = (
        FrozenTeacher(network, precision)(torch.ones(2, 64, device=DEVICE)) for precision in ("32", "bf16")
    )
    assert answer.dtype == torch.float32
    assert not torch.equal(answer, exact_answer)
    torch.testing.assert_close(answer, exact_answer, atol=0.05, rtol=0.05)


def test_compiled_blocks_stay_near() -> None:
    expected, _ = step(distiller("32"), DEVICE)
    model = distiller("32")
    compile_transformer(model.student, model.teacher.network)
    found, _ = step(model, DEVICE)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        lambda: DistilledVisionTransformer(**IMAGES, **ENCODER, num_classes=5),
        lambda: ViTDet(**IMAGES, **ENCODER, window=3, pretrain_size=16),
        lambda: SegmentationViT(**IMAGES, **ENCODER),
    ],
    ids=["classifier", "ViTDet", "segmentation"],
)
def test_answers_and_gradients_are_those_of_the_cpu(build: Any) -> None:
    found = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = build().to(device)
        answer = model(images().to(device))
        parts = list(answer) if isinstance(answer, list | tuple) else [answer]
        torch.stack([part.square().mean() for part in parts]).sum().backward()
        gradients = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
        found.append([*(part.detach().cpu() for part in parts), *gradients])
    for ours, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


def test_runs_on_the_device_follow_those_on_the_cpu(tmp_path: Path) -> None:
    place = "run.accelerator=cpu", f"run.accelerator={DEVICE}"
    teacher = pretrain(tmp_path / "teacher", place[1])
    for name, accelerator in zip(("cpu", "device"), place):
        distill(tmp_path / name, teacher, accelerator, "teacher.precision=32")
    expected, found = ([entry["loss"] for entry in losses(tmp_path / name)] for name in ("cpu", "device"))
    assert found == pytest.approx(expected, rel=2e-2)
