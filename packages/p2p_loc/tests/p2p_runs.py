"""Helpers of the tests of training: tiny settings, and runs inside this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from vireo.testing import Outcome, call_script
from vireo.testing.runs import read

DATA = ["data.train_images=8", "data.val_images=4", "data.image_size=[48,48]", "data.batch_size=4"]
MODEL = ["model.widths=[4,8]", "model.dilations=[1,2]", "model.score_threshold=0.001"]
STEPS = ["epochs=2", "eval_every=2", "rounds=1", "refine.score_thr=0", "run.log_every=1", "gallery_images=0"]
TINY = [*DATA, *MODEL, *STEPS, "optim.warmup_steps=1"]  # 2 steps an epoch, 2 epochs a round, 2 rounds
REPORT = "p2p_loc.report.write_report"


def train(*arguments: object, settings: list[str] = TINY) -> Outcome:
    """Run ``p2p-train`` in this process."""
    return call_script("p2p_loc.train", *settings, *arguments)


def done(folder: Path, *arguments: object, settings: list[str] = TINY) -> Path:
    """A tiny run in ``folder`` that must end well."""
    outcome = train(f"output_dir={folder}", *arguments, settings=settings)
    assert outcome.status == 0, outcome.err
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    """``rounds.json`` without seconds."""
    return [
        {key: value for key, value in row.items() if not key.endswith("_s")} for row in read(folder / "rounds.json")
    ]


def configuration(*overrides: str) -> DictConfig:
    """Of a run of ``p2p-train``."""
    with initialize_config_module("p2p_loc.conf", version_base="1.3"):
        return compose("train", list(overrides))
