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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The final weights of a run."""
    return load_file(folder / "model.safetensors")


def differing(one: Path, other: Path) -> list[str]:
    """Tensors in which the final weights of two runs are not bit-identical."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return [key for key in a if not torch.equal(a[key], b[key])]


def write_folders(root: Path, splits: dict[str, int], classes: tuple[str, ...] = CLASSES, vary: bool = False) -> Path:
    """JPEG files at ``root/<split>/<class>/``, so many of each class, told apart by their colour.

    ``vary``: images of different sizes instead of 32x32.
    """
    generator = np.random.default_rng(0)
    for split, count in splits.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(30, 60, 2) if vary else (32, 32)
                pixels = generator.integers(0, 100, (height, width, 3), dtype=np.uint8)
                pixels[..., label % 3] += 120
                Image.fromarray(pixels).save(folder / f"{number:03d}.jpg", quality=90)
    return root


def copy_of(folder: Path, target: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(folder, target))
