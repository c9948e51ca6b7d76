"""Tiny runs of ``g2sd-pretrain`` and ``g2sd-distill`` inside this process."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from unittest import mock

from vireo.testing import Outcome, call_script
from vireo.testing.runs import write_folders

DATA = ["data.train_images=64", "data.val_images=40", "data.image_size=[20,20]"]
IMAGES = ["model.img_size=16", "model.patch_size=4"]  # 4x4 patches
TEACHER = [*IMAGES, "model.embed_dim=32", "model.depth=2", "model.num_heads=2"]
TEACHER += ["model.decoder_dim=24", "model.decoder_depth=3", "model.decoder_heads=2"]
STUDENT = [*IMAGES, "model.embed_dim=16", "model.depth=2", "model.num_heads=2"]
STUDENT += ["model.decoder_dim=12", "model.decoder_depth=1", "model.decoder_heads=2"]
SMALL = ["data.batch_size=16", "epochs=2", "eval_every=2", "run.log_every=1", "optim.lr=0.03"]
PRETRAIN = [*TEACHER, *SMALL, "gallery_images=0"]
DISTILL = [*STUDENT, *SMALL]


def call(script: str, *arguments: object, report: bool = False) -> Outcome:
    """Run ``g2sd-<script>`` in this process; its page, which takes longer than the run, only if it is asked for."""
    with nullcontext() if report else mock.patch("g2sd.pretraining_report.write_run_report"):
        return call_script(f"g2sd.{script}", *arguments)


def pretrain(folder: Path, *arguments: object, data: list[str] = DATA, report: bool = False) -> Path:
    """A run of ``g2sd-pretrain`` in ``folder`` that must end well; returns the folder."""
    outcome = call("pretrain", *data, *PRETRAIN, f"output_dir={folder}", *arguments, report=report)
    assert outcome.status == 0, outcome.err
    return folder


def distill(folder: Path, teacher: Path, *arguments: object, data: list[str] = DATA, report: bool = False) -> Outcome:
    """A run of ``g2sd-distill`` in ``folder`` that must end well."""
    where = [f"output_dir={folder}", f"teacher.weights={teacher}"]
    outcome = call("distill", *data, *DISTILL, *where, *arguments, report=report)
    assert outcome.status == 0, outcome.err
    return outcome


def image_files(root: Path) -> list[str]:
    """Data settings of folders of images that are cropped by workers."""
    write_folders(root, {"train": 8, "val": 4}, vary=True)
    return ["data=imagenet", f"data.root={root}", "data.batch_size=8", "augmentation.interpolation=bicubic"]
