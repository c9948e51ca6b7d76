"""Helpers of the tests that go through the console scripts: calls inside this process, tiny runs, tiny data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from vireo.testing import Outcome, call_script

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


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def logged(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of a run's log of one kind."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(folder: Path) -> list[dict[str, float]]:
    """The losses of each step."""
    return [line["losses"] for line in logged(folder)]


def differing(one: Path, other: Path) -> list[str]:
    """Tensors in which the final weights of two runs are not bit-identical."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    return [key for key in a if not torch.equal(a[key], b[key])]


def write_folders(
    root: Path, splits: dict[str, int], classes: tuple[str, ...] = ("ant", "bee", "cat"), vary: bool = False
) -> Path:
    """JPEG files at ``root/<split>/<class>/``, so many of each class; of different sizes where they ``vary``."""
    generator = np.random.default_rng(0)
    for split, count in splits.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(24, 60, 2) if vary else (SIZE, SIZE)
                pixels = generator.integers(0, 100, (height, width, 3), dtype=np.uint8)
                pixels[..., label % 3] += 120
                Image.fromarray(pixels).save(folder / f"{number:03d}.jpg", quality=90)
    return root


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


def copy_of(folder: Path, target: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(folder, target))
