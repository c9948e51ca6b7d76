"""Helpers of the tests of itpn-segment and itpn-detect: tiny networks, a pre-training to start from, tiny runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from itpn.hivit import HiViT
from itpn.neck import PyramidNeck
from vireo.engine.checkpoint import save_weights
from vireo.testing import Outcome, call_script

BACKBONE: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depths": [1, 1, 1], "num_heads": 1}
NECK_DIM = 16
MODEL = [*(f"model.{key}={value}".replace(" ", "") for key, value in BACKBONE.items()), f"neck.dim={NECK_DIM}"]
COMMON = [*MODEL, "epochs=2", "eval_every=2", "run.log_every=1", "gallery_images=2", "optim.warmup_steps=2"]
SEGMENT = [
    *COMMON,
    *("segmenter.channels=8", "segmenter.auxiliary_channels=8"),
    *("data.train_images=8", "data.val_images=4", "data.image_size=[32,32]", "data.object_size=[10,24]"),
    *("data.crop=[32,32]", "data.short_side=32", "data.long_side=32", "data.batch_size=4", "data.eval_batch_size=3"),
]
DETECT = [
    *COMMON,
    *("detector.short_side=[32]", "detector.long_side=64", "detector.hidden=16"),
    *("detector.box_batch_size_per_image=16", "detector.rpn_post_nms_top_n_train=40"),
    "detector.rpn_post_nms_top_n_test=20",
    *("data.train_images=8", "data.val_images=4", "data.image_size=[32,40]", "data.object_size=[10,20]"),
    *("data.batch_size=2", "data.eval_batch_size=3"),
]


def call(script: str, *arguments: object) -> Outcome:
    """Run ``itpn-<script>`` in this process."""
    return call_script(f"itpn.{script}", *arguments)


def done(script: str, folder: Path, *arguments: object) -> Path:
    """A tiny run in ``folder`` that must end well."""
    outcome = call(script, *{"segment": SEGMENT, "detect": DETECT}[script], f"output_dir={folder}", *arguments)
    assert outcome.status == 0, outcome.err
    return folder


def write_pretraining(folder: Path, depth: int = 2) -> dict[str, torch.Tensor]:
    """Weights of backbone and pyramid, as a pre-training leaves them in its folder; returns them."""
    torch.manual_seed(1)
    options = {**BACKBONE, "depths": tuple(BACKBONE["depths"])}
    backbone = HiViT(**options)
    neck = PyramidNeck(backbone.dims, NECK_DIM, depth)
    parts = {"backbone": backbone, "neck": neck}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(state, folder / "model.safetensors")
    return state
