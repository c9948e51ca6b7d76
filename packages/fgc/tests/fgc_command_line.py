"""Helpers of the tests that go through the console scripts: calls inside this process, tiny runs, tiny data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from vireo.testing import Outcome, call_script, runs
from vireo.testing.runs import copy_of, differing, last_checkpoint, logged, losses, read  # noqa: F401  for tests

SIZE = 16  # of generated pictures, their smallest
EPOCHS, SHAPING = 3, 1  # one epoch of batch shaping, then one of warm-up and one with neighbours
COUPLED = ["recipe.shaping_epochs=0", "coupling.warmup_epochs=0"]  # from the first step on
TINY = [
    "model.width=4",
    "data.batch_size=16",
    "recipe.shaping_epochs=1",
    "recipe.rho_epochs=1",
    "coupling.num_neighbors=5",
    "coupling.warmup_epochs=1",
    "optim.milestones=[2]",
    f"epochs={EPOCHS}",
    "gallery_images=0",
    "run.log_every=1",
]
GENERATED = [
    *TINY,
    f"data.image_size=[{SIZE},{SIZE}]",
    "data.train_images=64",
    "data.val_images=40",
    "data.num_classes=6",
]
CIFAR = ["data=cifar10", "model.width=4", "data.batch_size=16", "epochs=1", "stage=bas", "gallery_images=0"]
FOLDER = [*TINY, "data=folder", f"data.image_size=[{SIZE},{SIZE}]", "data.val_split=val"]


def call(script: str, *arguments: object) -> Outcome:
    """Run ``fgc-<script>`` in this process."""
    return call_script(f"fgc.{script}", *arguments)


def train(folder: Path, *arguments: object, data: list[str] = GENERATED) -> Outcome:
    """A tiny run in ``folder`` that must end well."""
    outcome = call("train", *data, f"output_dir={folder}", *arguments)
    assert outcome.status == 0, outcome.err
    return outcome


write_folders = partial(runs.write_folders, size=SIZE)


def write_cifar(root: Path, per_batch: int = 8) -> Path:
    """``cifar-10-batches-bin`` below ``root``, with ``per_batch`` images in each of its six files."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records = generator.integers(0, 256, (per_batch, 3073), dtype=np.uint8)
        records[:, 0] = (np.arange(per_batch) + number) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return root
