"""Helpers of the tests that go through the console scripts: calls inside this process, and a run that takes seconds."""

from __future__ import annotations

from pathlib import Path

from vireo.data import GeneratedShapes
from vireo.testing import Outcome, call_script
from vireo.testing.runs import copy_of, differing, losses, read, weights  # noqa: F401  for tests

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


def call(script: str, *arguments: object) -> Outcome:
    """Run ``ssd-det-<script>`` in this process."""
    return call_script(f"ssd_det.{script}", *arguments)


def export_shapes(folder: Path, train: int = 8, val: int = 4) -> Path:
    """Splits ``train`` and ``val`` of generated pictures as COCO and VOC files; returns ``folder``."""
    for seed, (split, length) in enumerate({"train": train, "val": val}.items()):
        shapes = GeneratedShapes(length, (SIZE, SIZE), seed, object_size=(14, 30), num_objects=(1, 3))
        shapes.export(folder, split)
    return folder
