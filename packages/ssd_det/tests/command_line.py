"""Helpers of the tests that go through the console scripts: calls inside this process, and a run that takes seconds."""

from __future__ import annotations

import contextlib
import importlib
import io
import shutil
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from vireo.data import GeneratedShapes

SIZE = 64
MODEL = [
    "model.backbone_options.channels=[32,32,32,32]",
    "model.fpn_channels=16",
    "model.hidden=16",
    "model.roi_size=3",
    "refiner.num_negatives=20",
    "optim.warmup_steps=2",
]
COMMON = [
    *MODEL,
    f"data.short_side={SIZE}",
    f"data.long_side={SIZE}",
    "data.batch_size=4",
    "data.workers=0",
    "epochs=1",
    "gallery_images=1",
    "eval_refined=4",
    "run.log_every=1",
]
GENERATED = [
    *COMMON,
    "data.train_images=12",
    "data.val_images=4",
    f"data.image_size=[{SIZE},{SIZE}]",
    "data.object_size=[14,30]",
    "data.num_objects=[1,3]",
]
COCO = [
    *COMMON,
    "data=coco",
    "data.train_images=JPEGImages",
    "data.train_annotations=annotations/train.json",
    "data.val_images=JPEGImages",
    "data.val_annotations=annotations/val.json",
]
VOC = [*COMMON, "data=voc", "data.train_split=train", "data.val_split=val", "data.noise=0.4"]


class Outcome(NamedTuple):
    """How a console script ended, and what it wrote."""

    status: int
    out: str
    err: str

    def mistake(self) -> str:
        """The message of a script that ended with status 2: one line, no traceback."""
        assert self.status == 2, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert self.err.endswith(lines[0] + "\n"), self.err
        return lines[0]


def call(script: str, *arguments: object) -> Outcome:
    """Run ``ssd-det-<script>`` in this process."""
    main = importlib.import_module(f"ssd_det.{script}").main
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"ssd-det-{script}", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = main()
        except SystemExit as end:
            status = end.code
    return Outcome(int(status or 0), out.getvalue(), err.getvalue())


def export_shapes(folder: Path, train: int = 8, val: int = 4) -> Path:
    """Splits ``train`` and ``val`` of generated pictures as COCO and VOC files; returns ``folder``."""
    for seed, (split, length) in enumerate({"train": train, "val": val}.items()):
        shapes = GeneratedShapes(length, (SIZE, SIZE), seed, object_size=(14, 30), num_objects=(1, 3))
        shapes.export(folder, split)
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(folder, target))
