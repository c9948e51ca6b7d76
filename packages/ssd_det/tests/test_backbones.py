"""Backbones by their names in timm's registry: a plain ViT, and an encoder that another paper's package pre-trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from command_line import GENERATED, call
from torch import Tensor

from ssd_det.load import load_run
from vireo.backbones import load_registrations
from vireo.engine.checkpoint import save_weights
from vireo.testing.runs import losses, weights

BODY: dict[str, Any] = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3}
LR = 1e-3
RUN = [
    *(argument for argument in GENERATED if "backbone_options" not in argument),
    *("model=r50", "model.pretrained=false", "model.frozen_stages=0", "+model.backbone_options.out_channels=16"),
    *(f"+model.backbone_options.{key}={value}" for key, value in BODY.items()),
    *(f"optim.lr={LR}", "optim.weight_decay=0", "optim.warmup_steps=0", "gallery_images=0", "eval_refined=2"),
]
STEPS = 3


def pretrained(name: str) -> dict[str, Tensor]:
    """An encoder's state, far from a fresh one's: as if pre-trained."""
    torch.manual_seed(5)
    network: Any = timm.create_model(name, num_classes=0, global_pool="", **BODY)
    state = {key: torch.randn_like(value) / 8 for key, value in network.state_dict().items()}
    return {**state, "pos_embed": network.pos_embed.detach()}


@pytest.mark.parametrize("name", ["beyond_masking_vit_tiny", "vit_tiny_patch16_224"])
def test_train_on_a_transformer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector starts from the file: after a few small steps its encoder is near that, and all of it moved."""
    monkeypatch.setattr("ssd_det.report.write_run_report", lambda *_: None)
    of_a_package = name.startswith("beyond_masking")
    if of_a_package and "beyond_masking" not in load_registrations():
        pytest.skip("the package beyond_masking is not installed")
    file, folder = tmp_path / "pretraining.safetensors", tmp_path / "run"
    state = pretrained(name)
    prefix = "encoder." if of_a_package else ""
    save_weights({f"{prefix}{key}": value for key, value in state.items()}, file)  # as a pre-training run leaves them
    outcome = call("train", *RUN, f"model.backbone={name}", f"model.backbone_weights={file}", f"output_dir={folder}")
    assert outcome.status == 0, outcome.err

    assert len(losses(folder)) == STEPS
    assert all(torch.tensor(list(step.values())).isfinite().all() for step in losses(folder))
    trained = {key.removeprefix("backbone.body."): value for key, value in weights(folder).items()}
    for key, start in state.items():
        moved = (trained[key] - start).abs()
        assert moved.max() <= 1.1 * STEPS * LR, key  # AdamW moves an entry by no more than the rate in each step
        assert moved.max() > 0 or (of_a_package and key == "pos_embed"), key  # which is a fixed table there
    loaded = load_run(folder).model
    assert loaded.backbone.feature_info.channels() == [16] * 4  # type: ignore[operator, union-attr]


def test_a_transformer_has_no_stages_to_freeze(tmp_path: Path) -> None:
    outcome = call(
        "train", *RUN, "model.backbone=vit_tiny_patch16_224", "model.frozen_stages=1", f"output_dir={tmp_path}/run"
    )
    assert "model.frozen_stages: vit_tiny_patch16_224 has 0 stages that can be frozen, not 1" in outcome.mistake()


def test_train_on_a_pre_trained_pyramid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbone and pyramid of a pre-training of another package, by their name in timm's registry."""
    if "itpn" not in load_registrations():
        pytest.skip("the package itpn is not installed")
    monkeypatch.setattr("ssd_det.report.write_run_report", lambda *_: None)
    sizes: dict[str, Any] = {"img_size": 64, "embed_dim": 32, "depths": (1, 1, 2), "num_heads": 2, "fpn_dim": 16}
    torch.manual_seed(5)
    state = {
        key: torch.randn_like(value) / 8
        for key, value in timm.create_model("itpn_tiny_pyramid", **sizes).state_dict().items()
    }
    file, folder = tmp_path / "pretraining.safetensors", tmp_path / "run"
    save_weights(state, file)
    options = {**sizes, "depths": "[1,1,2]"}
    body = [f"+model.backbone_options.{key}={value}" for key, value in options.items()]
    others = [setting for setting in RUN if "backbone_options" not in setting]
    chosen = ["model.backbone=itpn_tiny_pyramid", f"model.backbone_weights={file}", f"output_dir={folder}"]
    outcome = call("train", *others, *body, *chosen)
    assert outcome.status == 0, outcome.err

    trained = {key.removeprefix("backbone.model."): value for key, value in weights(folder).items()}
    for key, start in state.items():
        assert 0 < (trained[key] - start).abs().max() <= 1.1 * STEPS * LR, key
    assert load_run(folder).model.backbone.feature_info.channels() == [16] * 4  # type: ignore[operator, union-attr]
