"""Helpers of the tests of ``g2sd-segment``: tiny networks and runs inside this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from g2sd.mae import build_encoder, init_weights
from g2sd.segmenter import Segmenter
from vireo.engine.checkpoint import save_weights
from vireo.testing import Outcome, call_script

SIZES = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
LARGER = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
HEADS = {"channels": 8, "auxiliary_channels": 8}
SIDE, CLASSES = 32, 4


def _settings(sizes: dict[str, int]) -> list[str]:
    return [f"model.{key}={value}" for key, value in sizes.items()]


SEGMENT = [
    *_settings(SIZES),
    *(f"model.img_size={SIDE}", "segmenter.channels=8", "segmenter.auxiliary_channels=8"),
    *("epochs=2", "eval_every=2", "run.log_every=1", "gallery_images=0", "optim.warmup_steps=2"),
    *("data.train_images=8", "data.val_images=4", "data.image_size=[32,40]", "data.object_size=[10,24]"),
    *("data.crop=[32,32]", "data.short_side=32", "data.long_side=40", "data.batch_size=4", "data.eval_batch_size=3"),
]
TEACHER = [text for text in SEGMENT if text not in _settings(SIZES)] + _settings(LARGER)


def segment(*arguments: object, settings: list[str] = SEGMENT) -> Outcome:
    """Run ``g2sd-segment`` in this process."""
    return call_script("g2sd.segment", *settings, *arguments)


def done(folder: Path, *arguments: object, settings: list[str] = SEGMENT) -> Path:
    """A tiny run in ``folder`` that must end well."""
    outcome = segment(f"output_dir={folder}", *arguments, settings=settings)
    assert outcome.status == 0, outcome.err
    return folder


def tiny_segmenter(seed: int = 1, **sizes: int) -> Segmenter:
    """The network of :data:`SEGMENT`, or with other sizes, and drawn bias tables."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"num_classes": CLASSES, "img_size": SIDE, **SIZES, **HEADS, **sizes}
    model = Segmenter(**options)
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def write_encoder(path: Path, side: int = SIDE) -> dict[str, torch.Tensor]:
    """A file of an encoder under timm's names; returns its entries."""
    torch.manual_seed(1)
    encoder = build_encoder(side, **SIZES)
    init_weights(encoder)
    save_weights(encoder.state_dict(), path)
    return encoder.state_dict()
