"""What tests of console scripts read in the folder of a run, and the picture files they give to one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor


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


def weights(folder: Path) -> dict[str, Tensor]:
    """The final weights of a run."""
    return load_file(folder / "model.safetensors")


def differing(one: Path, other: Path) -> list[str]:
    """Tensors in which the final weights of two runs are not bit-identical."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return [key for key in a if not torch.equal(a[key], b[key])]


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    content: dict[str, Any] = torch.load(sorted((folder / "checkpoints").glob("step_*.pt"))[-1], weights_only=True)
    return content


def copy_of(folder: Path, target: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(folder, target))


def write_folders(
    root: Path,
    splits: dict[str, int],
    classes: tuple[str, ...] = ("ant", "bee", "cat"),
    vary: bool = False,
    size: int = 32,
) -> Path:
    """JPEG files at ``root/<split>/<class>/``, so many of each class, told apart by their colour; returns ``root``.

    ``size``: side of the images in pixels; where they ``vary``, sides are between 24 and 59.
    """
    generator = np.random.default_rng(0)
    for split, count in splits.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(24, 60, 2) if vary else (size, size)
                pixels = generator.integers(0, 100, (height, width, 3), dtype=np.uint8)
                pixels[..., label % 3] += 120
                Image.fromarray(pixels).save(folder / f"{number:03d}.jpg", quality=90)
    return root
