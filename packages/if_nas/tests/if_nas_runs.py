"""Helpers of the tests that train: calls inside this process, tiny runs, tiny data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from if_nas import Genotype, write_genotype
from vireo.testing import Outcome, call_script, runs

SIZE = 16  # of generated pictures, their smallest
CHAIN = Genotype.from_dict(
    {f"stage{s}": {"1": [["conv3", 0]], "2": [["skip", 0], ["conv3", 1]]} for s in (1, 2, 3)},
)
"""The genotype of :data:`TINY`: two nodes a stage."""
TINY = [
    "data.batch_size=16",
    "model.width=4",
    "epochs=2",
    "run.log_every=1",
]
GENERATED = [*TINY, "data.train_images=64", "data.val_images=40", "data.num_classes=6"]
FOLDER = [*TINY, "data=folder", f"data.image_size=[{SIZE},{SIZE}]", "data.val_split=val"]
IMAGENET = [*TINY, "data=imagenet", "data.crop_size=32", "data.batch_size=6", "data.workers=0"]


def call(script: str, *arguments: object) -> Outcome:
    """Run ``if-nas-<script>`` in this process."""
    return call_script(f"if_nas.{script}", *arguments)


def chain(folder: Path) -> str:
    """The override that names :data:`CHAIN`, written into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "chain.json"
    write_genotype(path, CHAIN)
    return f"genotype={path}"


def train(folder: Path, *arguments: object, data: list[str] = GENERATED) -> Outcome:
    """A tiny run in ``folder`` that must end well."""
    outcome = call("train", *data, chain(folder.parent), f"output_dir={folder}", *arguments)
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
