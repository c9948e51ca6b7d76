"""Masked feature modelling with a moving average: the losses, the average, and what a run keeps of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from itpn_pretrain_runs import MOMENTUM, PIXEL, pretrain
from torch import Tensor, nn

from itpn.hivit import HiViT
from itpn.momentum import MomentumPyramidAutoencoder, MomentumTeacher, momentum_at
from itpn.neck import PyramidNeck
from vireo.testing.runs import last_checkpoint, logged, losses, read, weights


def autoencoder(weight: float = 0.3) -> MomentumPyramidAutoencoder:
    torch.manual_seed(0)
    backbone = HiViT(32, 8, embed_dim=32, depths=(1, 1, 2), num_heads=2, drop_path_rate=0.3)
    options = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
    return MomentumPyramidAutoencoder(backbone, PyramidNeck((8, 16, 32), 16), weight, **options)


class StubTeacher(nn.Module):
    """Features that are the same everywhere, and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, images: Tensor, ids: Tensor) -> list[Tensor]:
        self.asked = [images, ids]
        return [torch.full((*ids.shape, size), 5.0) for size in (32, 64, 128)]


def test_losses_with_a_stub_teacher() -> None:
    model = autoencoder(weight=0.5)
    model.teacher = stub = StubTeacher()
    for head in model.feature_heads:
        nn.init.zeros_(head.weight)  # type: ignore[arg-type]
    images, noise = torch.rand(2, 3, 32, 32), torch.rand(2, 16)
    output = model(images, noise)
    assert output.losses["features"].item() == pytest.approx(3 * 4.5)  # smooth L1 of 5, at three levels
    assert output.loss.item() == pytest.approx(output.losses["pixel"].item() + 0.5 * 13.5)
    assert torch.equal(stub.asked[0], images)  # not what the student sees
    assert torch.equal(stub.asked[1], output.mask.ids_removed)


def test_targets_are_the_backbones_features_of_the_whole_image() -> None:
    model = autoencoder()
    images, ids = torch.rand(2, 3, 32, 32), torch.tensor([[3, 7], [0, 15]])
    model.train()
    assert not model.teacher.training
    targets = model.teacher(images, ids)
    backbone = model.backbone.eval()
    f4, f8, x16, _ = backbone.forward_units(images)
    for target, level in zip(targets, (x16, f8, f4)):
        expected = F.layer_norm(level, level.shape[-1:])[torch.arange(2)[:, None], ids].flatten(2)
        torch.testing.assert_close(target, expected)
        assert not target.requires_grad


def test_the_average() -> None:
    model, first = autoencoder(), None
    teacher = model.teacher
    assert isinstance(teacher, MomentumTeacher)
    with torch.no_grad():
        model.backbone.absolute_pos_embed.fill_(1.0)  # weights that were loaded later
    model.update_teacher(0, 10)
    first = teacher.backbone.absolute_pos_embed.clone()
    assert torch.equal(first, model.backbone.absolute_pos_embed)
    with torch.no_grad():
        model.backbone.absolute_pos_embed.fill_(3.0)
    model.update_teacher(4, 10)
    expected = 1 + 2 * (1 - momentum_at(4, 10))
    torch.testing.assert_close(teacher.backbone.absolute_pos_embed, torch.full_like(first, expected))
    assert momentum_at(0, 10) == pytest.approx(0.9996)
    assert momentum_at(10, 10) == 1
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_every_other_parameter_learns() -> None:
    model = autoencoder().eval()
    model(torch.rand(2, 3, 32, 32)).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"decoder_pos_embed", *(f"teacher.{name}" for name, _ in model.teacher.named_parameters())}


def test_a_run(tmp_path: Path) -> None:
    """The average is in the checkpoints, behind the weights; the final weights do without it."""
    pretrain(tmp_path, *MOMENTUM, "epochs=4", "pixel.mfm_weight=0.3")
    monitors = [line["monitors"] for line in logged(tmp_path)]
    for line, monitor in zip(losses(tmp_path), monitors):
        assert line["loss"] == pytest.approx(monitor["pixel"] + 0.3 * monitor["features"], rel=1e-5)
    assert monitors[-1]["features"] < monitors[0]["features"]
    kept = last_checkpoint(tmp_path)["model"]
    assert not torch.equal(kept["teacher.backbone.absolute_pos_embed"], kept["backbone.absolute_pos_embed"])
    assert not any(name.startswith("teacher.") for name in weights(tmp_path))
    pretrain(tmp_path / "second", *MOMENTUM, "epochs=1", f"init={tmp_path}")
    assert losses(tmp_path / "second")[0]["loss"] < losses(tmp_path)[0]["loss"]


def test_it_is_off_by_default(tmp_path: Path) -> None:
    pretrain(tmp_path, *PIXEL, "epochs=1", "eval_every=0")
    assert read(tmp_path / "metrics.json")["config"]["pixel"]["mfm_weight"] == 0
    assert set(logged(tmp_path)[0]["monitors"]) == {"pixel", "grad_norm"}
