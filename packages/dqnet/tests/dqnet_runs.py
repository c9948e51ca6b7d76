"""Helpers of the tests of training: a tiny network, its settings, and runs inside this process."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from vireo.testing import Outcome, call_script

MODEL = [
    *("model.image_size=32", "model.vit.patch_size=8", "model.vit.embed_dim=16", "model.vit.depth=2"),
    *("model.vit.num_heads=2", "model.resnet.width=4", "model.window=2", "model.heads=2", "model.head_width=8"),
]
DATA = ["data.train_images=8", "data.val_images=4", "data.image_size=32", "data.batch_size=4"]
STEPS = ["epochs=2", "eval_every=2", "schedule.warmup_steps=1", "run.log_every=1", "gallery_images=0"]
TINY = [*MODEL, *DATA, *STEPS]
REPORT = "dqnet.report.write_report"


def train(*arguments: object, settings: list[str] = TINY) -> Outcome:
    """Run ``dqnet-train`` in this process."""
    return call_script("dqnet.train", *settings, *arguments)


def done(folder: Path, *arguments: object, settings: list[str] = TINY) -> Path:
    """A tiny run in ``folder`` that must end well."""
    outcome = train(f"output_dir={folder}", *arguments, settings=settings)
    assert outcome.status == 0, outcome.err
    return folder


def configuration(*overrides: str) -> DictConfig:
    """Of a run of ``dqnet-train``."""
    with initialize_config_module("dqnet.conf", version_base="1.3"):
        return compose("train", list(overrides))
