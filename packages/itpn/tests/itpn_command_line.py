"""Helpers of the tests of fine-tuning, evaluation and prediction: calls inside this process, tiny runs, tiny data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vireo.testing import Outcome, call_script
from vireo.testing.runs import read

SIZE = 32  # pixels: 4x4 units of 8
CLASSES = ("ant", "bee", "cat")
DATA = ["data.train_images=64", "data.val_images=40", "data.num_classes=6", "data.image_size=[36,36]"]
MODEL = ["model.embed_dim=32", "model.depths=[1,1,2]", "model.num_heads=2"]
FINETUNE = [*MODEL, "data.batch_size=16", "data.eval_batch_size=32", "epochs=2", "run.log_every=1"]
FAST = ["model=fast_itpn_tiny", "model.img_size=32", "+model.patch_size=8", *(f"+{text}" for text in MODEL)]
FOLDER = ["data=folder", "data.image_size=[36,36]", "data.val_split=val"]
IMAGENET = ["data=imagenet", "data.workers=0"]
STILL = ["optim.lr=1e-30", "optim.min_lr=0", "optim.weight_decay=0", "epochs=1"]  # too small a step for float32


def call(script: str, *arguments: object) -> Outcome:
    """Run ``itpn-<script>`` in this process."""
    return call_script(f"itpn.{script}", *arguments)


def finetune(folder: Path, *arguments: object, data: list[str] = DATA, settings: list[str] = FINETUNE) -> Outcome:
    """A tiny fine-tuning run in ``folder`` that must end well."""
    return _done(call("finetune", *data, *settings, f"output_dir={folder}", *arguments))


def fast(folder: Path, *arguments: object) -> Outcome:
    """The same of a Fast-iTPN."""
    common = [text for text in FINETUNE if text not in MODEL]
    return finetune(folder, *FAST, *common, *arguments, settings=[])


def evaluate(folder: Path, *arguments: object) -> dict[str, Any]:
    """The metrics of a run by ``itpn-eval``, which must end well."""
    out = folder / "called_eval.json"
    _done(call("eval", f"run={folder}", f"out={out}", *arguments))
    metrics: dict[str, Any] = read(out)["metrics"]
    return metrics


def _done(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.err
    return outcome
