"""Helpers of the tests that go through the console scripts: calls inside this process, tiny runs, tiny data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vireo.testing import Outcome, call_script
from vireo.testing.runs import copy_of, differing, logged, losses, read, weights, write_folders  # noqa: F401  for tests

SIZE = 28  # of what the encoder sees: 4x4 patches
MODEL = [
    f"model.img_size={SIZE}",
    "model.patch_size=7",
    "model.embed_dim=24",
    "model.depth=2",
    "model.num_heads=2",
    "model.decoder_dim=16",
    "model.decoder_heads=2",
]
COMMON = [*MODEL, "data.batch_size=16", "data.eval_batch_size=32", "epochs=2", "run.log_every=1"]
DATA = ["data.train_images=64", "data.val_images=40", "data.num_classes=6", "data.image_size=[32,32]"]
PRETRAIN = [*COMMON, "gallery_images=0", "optim.warmup_epochs=1"]
FINETUNE = [*COMMON, "optim.warmup_epochs=1"]
FOLDER = ["data=folder", "data.image_size=[32,32]", "data.val_split=val"]
IMAGENET = ["data=imagenet", "data.workers=0"]
CLASSES = ("ant", "bee", "cat")


def call(script: str, *arguments: object) -> Outcome:
    """Run ``beyond-masking-<script>`` in this process."""
    return call_script(f"beyond_masking.{script}", *arguments)


def pretrain(folder: Path, *arguments: object, data: list[str] = DATA) -> Outcome:
    """A tiny pre-training run in ``folder`` that must end well."""
    return _done(call("pretrain", *data, *PRETRAIN, f"output_dir={folder}", *arguments))


def finetune(folder: Path, *arguments: object, data: list[str] = DATA) -> Outcome:
    """A tiny fine-tuning run in ``folder`` that must end well."""
    return _done(call("finetune", *data, *FINETUNE, f"output_dir={folder}", *arguments))


def evaluate(folder: Path, *arguments: object) -> dict[str, Any]:
    """The metrics of a run by ``beyond-masking-eval``, which must end well."""
    out = folder / "called_eval.json"
    _done(call("eval", f"run={folder}", f"out={out}", *arguments))
    return read(out)["metrics"]


def _done(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.err
    return outcome
