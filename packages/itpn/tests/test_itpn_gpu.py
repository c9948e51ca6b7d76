"""Networks, pre-training and runs on a CUDA device against the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from itpn_command_line import finetune
from itpn_downstream_runs import done
from itpn_pretrain_runs import DATA, PIXEL, clip
from itpn_pretrain_runs import call as pretrain
from torch import Tensor, nn

from itpn import FastITPN, HiViT, MaskedPyramidAutoencoder, PyramidNeck, block_masks, iTPNFeatures
from itpn.attention import MlpBlock
from vireo.engine import compile_blocks
from vireo.testing import full_float32
from vireo.testing.runs import losses, read

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZES: dict[str, Any] = {"img_size": 64, "embed_dim": 64, "depths": (1, 1, 2), "num_heads": 2}


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """float32 as on the CPU."""
    with full_float32():
        yield


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(0))


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "fast":
        return FastITPN(**SIZES, num_classes=5)
    return HiViT(**SIZES, num_classes=5, rel_pos=None if kind == "none" else kind, init_values=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 64), (48, 80)], ids=str)
@pytest.mark.parametrize("kind", ["none", "bias", "decomposed", "fast"])
def test_logits_and_gradients_are_those_of_the_cpu(kind: str, size: tuple[int, int]) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = network(kind).to(device)
        logits = model(images(*size).to(device))
        logits.square().sum().backward()
        gradients = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
        found.append((logits.detach().cpu(), *gradients))
    for ours, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


def pretraining() -> MaskedPyramidAutoencoder:
    torch.manual_seed(0)
    backbone = HiViT(**SIZES)
    return MaskedPyramidAutoencoder(backbone, PyramidNeck(backbone.dims, 32, 2), 64, 2, 4)


def test_pre_training_is_that_of_the_cpu() -> None:
    noise = torch.rand(4, 16, generator=torch.Generator().manual_seed(1))
    expected = pretraining()(images(), noise)
    found = pretraining().cuda()(images().cuda(), noise.cuda())
    torch.testing.assert_close(found.loss.cpu(), expected.loss, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.mask.ids_keep.cpu(), expected.mask.ids_keep)


def test_compiled_blocks_in_bfloat16_stay_near() -> None:
    noise = torch.rand(4, 16, generator=torch.Generator().manual_seed(1)).cuda()
    model = pretraining().cuda()
    expected = model(images().cuda(), noise).loss
    compile_blocks(model, MlpBlock)
    with torch.autocast("cuda", torch.bfloat16):
        found = model(images().cuda(), noise).loss
    found.backward()
    torch.testing.assert_close(found.float(), expected.float(), atol=0.02, rtol=0.02)


def test_maps_of_a_detector_s_image() -> None:
    torch.manual_seed(0)
    backbone = HiViT(**{**SIZES, "img_size": 224})
    features = iTPNFeatures(backbone, PyramidNeck(backbone.dims, 32)).eval()
    with torch.no_grad():
        expected = features(images(320, 512)[:1])
        found = features.cuda()(images(320, 512)[:1].cuda())
    for name, level in expected.items():
        torch.testing.assert_close(found[name].cpu(), level, atol=1e-4, rtol=1e-3)


def test_block_masks_are_those_of_the_cpu() -> None:
    keys = torch.arange(64)
    assert torch.equal(block_masks(keys.cuda(), (14, 14)).cpu(), block_masks(keys, (14, 14)))


@pytest.mark.parametrize("objective", ["pixel", "clip"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_pre_training_runs_follow_the_cpu(tmp_path: Path, precision: str, objective: str) -> None:
    settings = PIXEL if objective == "pixel" else clip(tmp_path / "teacher")
    for name, device in (("cpu", ["run.accelerator=cpu"]), ("cuda", [f"run.precision={precision}"])):
        outcome = pretrain(*DATA, *settings, *device, f"output_dir={tmp_path / name}")
        assert outcome.status == 0, outcome.err
    tolerance = 1e-3 if precision == "32-true" else 0.05
    for a, b in zip(losses(tmp_path / "cpu"), losses(tmp_path / "cuda"), strict=True):
        assert a == pytest.approx(b, rel=tolerance)


@pytest.mark.parametrize("script", ["segment", "detect"])
def test_dense_runs_end_well(tmp_path: Path, script: str) -> None:
    folder = done(script, tmp_path, "run.accelerator=cuda", "run.precision=bf16-mixed")
    metrics = read(folder / "metrics.json")["metrics"]
    assert 0 <= metrics["mIoU" if script == "segment" else "box_AP"] <= 1


def test_fine_tuning_ends_well(tmp_path: Path) -> None:
    finetune(tmp_path, "run.accelerator=cuda", "run.precision=bf16-mixed", "compile=true")
    assert 0 <= read(tmp_path / "metrics.json")["metrics"]["top1_error"] <= 100
