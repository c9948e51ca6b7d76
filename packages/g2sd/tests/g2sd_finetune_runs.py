"""Helpers of the tests of fine-tuning and evaluation: calls inside this process, tiny runs that build on each other."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vireo.testing import Outcome, call_script
from vireo.testing.runs import read

SIZE = 32  # pixels: 4x4 patches of 8
DATA = ["data.train_images=64", "data.val_images=40", "data.num_classes=6", "data.image_size=[36,36]"]
MODEL = ["model.patch_size=8", "model.embed_dim=24", "model.depth=2", "model.num_heads=2"]
DECODER = ["model.decoder_dim=16", "model.decoder_depth=2", "model.decoder_heads=2"]
TEACHER = ["model.patch_size=8", "model.embed_dim=32", "model.depth=2", "model.num_heads=4"]
STEPS = ["data.batch_size=16", "run.log_every=1"]
FINETUNE = [*MODEL, *STEPS, "data.eval_batch_size=32", "epochs=2"]
FOLDER = ["data=folder", "data.image_size=[36,36]", "data.val_split=val"]
IMAGENET = ["data=imagenet", "data.workers=0"]
STILL = ["optim.lr=1e-30", "optim.min_lr=0", "optim.weight_decay=0", "epochs=1"]  # too small a step for float32
REPORTS = ["g2sd.report.write_run_report", "g2sd.pretraining_report.write_run_report"]


def without_reports(patch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs."""
    for name in REPORTS:
        patch.setattr(name, lambda *_, **__: None)


def call(script: str, *arguments: object) -> Outcome:
    """Run ``g2sd-<script>`` in this process."""
    return call_script(f"g2sd.{script}", *arguments)


def done(outcome: Outcome) -> Outcome:
    """The outcome of a call that must end well."""
    assert outcome.status == 0, outcome.err
    return outcome


def finetune(folder: Path, *arguments: object, data: list[str] = DATA, settings: list[str] = FINETUNE) -> Outcome:
    """A tiny fine-tuning run in ``folder`` that must end well."""
    return done(call("finetune", *data, *settings, f"output_dir={folder}", *arguments))


def evaluate(folder: Path, *arguments: object) -> dict[str, Any]:
    """The metrics of a run by ``g2sd-eval``, which must end well."""
    out = folder / "called_eval.json"
    done(call("eval", f"run={folder}", f"out={out}", *arguments))
    metrics: dict[str, Any] = read(out)["metrics"]
    return metrics


def make_chain(factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs of one epoch: ``pretrain`` of a teacher, ``teacher`` that classifies, ``distill`` from the one,
    ``classifier`` from both. All test modules share them, and leave them as they are.
    """
    return _make_chain(factory.getbasetemp() / "chain")


@cache
def _make_chain(root: Path) -> dict[str, Path]:
    runs = {name: root / name for name in ("pretrain", "teacher", "distill", "classifier")}
    common = [*DATA, *STEPS, "epochs=1"]
    quiet = ["eval_every=0", *common]
    with pytest.MonkeyPatch.context() as patch:
        without_reports(patch)
        pretraining = [*TEACHER, *DECODER, *quiet, "gallery_images=0", f"output_dir={runs['pretrain']}"]
        done(call("pretrain", *pretraining))
        teacher = [f"teacher.weights={runs['pretrain']}", "target_block=1"]
        done(call("distill", *MODEL, *DECODER, *quiet, *teacher, f"output_dir={runs['distill']}"))
        finetune(runs["teacher"], f"init={runs['pretrain']}", "readout=mean", settings=[*TEACHER, *common])
        given = [f"init={runs['distill']}", f"teacher.weights={runs['teacher']}"]
        finetune(runs["classifier"], *given, "run.ema_decay=0.5")
    return runs
