"""Degradations, models, runs and loaders on a CUDA device against the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bm_command_line import finetune, losses, pretrain, read, write_folders

from beyond_masking import TokenPretrainModel, build_degradation
from beyond_masking.build import compile_blocks
from beyond_masking.draws import batch_draws
from beyond_masking.model import DEGRADATIONS
from vireo.testing import full_float32

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZES: dict[str, Any] = {"img_size": 28, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2}
SIZES |= {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
KEYS = torch.arange(8) + 5


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 as on the CPU."""
    with full_float32():
        yield


def images(side: int) -> torch.Tensor:
    return torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degradations_are_those_of_the_cpu(name: str) -> None:
    degradation = build_degradation(name, 28)
    given = images(degradation.crop_size)
    expected = degradation(given, draws=batch_draws(KEYS, 0, 1, 2)).inputs
    found = degradation.cuda()(given.cuda(), draws=batch_draws(KEYS.cuda(), 0, 1, 2)).inputs
    torch.testing.assert_close(found.cpu(), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("mask_ratio", [0, 0.75])
@pytest.mark.parametrize("name", ["none", "zoomed_in", "zoomed_out", "distorted"])
def test_losses_and_gradients_are_those_of_the_cpu(name: str, mask_ratio: float) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = TokenPretrainModel(name, mask_ratio, **SIZES).to(device)
        output = model(images(model.crop_size).to(device), draws=batch_draws(KEYS.to(device), 0, 1, 2))
        output.loss.backward()
        weight = model.encoder.patch_embed.proj.weight.grad
        assert weight is not None
        found[device] = (output.loss.detach().cpu(), weight.cpu())
    torch.testing.assert_close(found["cuda"][0], found["cpu"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["cuda"][1], found["cpu"][1], atol=1e-5, rtol=1e-3)


def test_compiled_blocks_in_bfloat16_stay_near() -> None:
    torch.manual_seed(0)
    model = TokenPretrainModel("zoomed_in", 0.75, **SIZES).cuda()
    given, draws = images(model.crop_size).cuda(), batch_draws(KEYS.cuda(), 0, 1, 2)
    expected = model(given, draws=draws).loss
    compile_blocks(model)
    with torch.autocast("cuda", torch.bfloat16):
        found = model(given, draws=draws).loss
    found.backward()
    torch.testing.assert_close(found.float(), expected.float(), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_runs_on_the_device_follow_the_cpu(tmp_path: Path, precision: str) -> None:
    pretrain(tmp_path / "cpu", "run.accelerator=cpu")
    pretrain(tmp_path / "cuda", "run.accelerator=cuda", f"run.precision={precision}")
    tolerance = 1e-4 if precision == "32-true" else 0.02
    for a, b in zip(losses(tmp_path / "cpu"), losses(tmp_path / "cuda"), strict=True):
        assert a == pytest.approx(b, rel=tolerance)
    finetune(tmp_path / "tuned", f"init={tmp_path / 'cuda'}", "run.accelerator=cuda", f"run.precision={precision}")
    assert 0 <= read(tmp_path / "tuned" / "metrics.json")["metrics"]["top1_error"] <= 100


def test_large_images_come_through_workers(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 16, "val": 6}, vary=True)
    data = ["data=imagenet", f"data.root={root}", "data.workers=2", "data.batch_size=16"]
    for device in ("cpu", "cuda"):
        pretrain(tmp_path / device, f"run.accelerator={device}", "data.batch_size=16", data=data)
    for a, b in zip(losses(tmp_path / "cpu"), losses(tmp_path / "cuda"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
