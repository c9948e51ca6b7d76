"""Reference cases: loading the number files, rebuilding their inputs, comparing at the stated tolerances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireo.testing import fill_state_dict, tensor, values

GOLDEN = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a reference case as tensors."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def load_json(name: str) -> Any:
    """The content of a json file of the reference numbers."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def close(actual: Tensor, expected: Tensor, absolute: float) -> None:
    """Equal in shape, and up to ``absolute`` in every element."""
    actual = actual.detach().double()
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} against {tuple(expected.shape)}"
    worst = float((actual - expected.double()).abs().max())
    assert worst <= absolute, f"off by {worst:.3g}, allowed {absolute:.3g}"  # a NaN is not <= either


def stats(x: Tensor) -> Tensor:
    """Mean, population standard deviation and greatest magnitude, float64 ``(3,)``."""
    x = x.detach().double()
    return torch.stack((x.mean(), x.std(correction=0), x.abs().max()))


def images_u8(height: int, width: int, seed: int) -> Tensor:
    """The 8-bit image of a case, ``uint8 (3, H, W)``."""
    noise = values("input.image_u8", (height, width, 3), seed).astype(np.float64)
    return torch.from_numpy(np.clip(np.rint(128 + 48 * noise), 0, 255).astype(np.uint8)).permute(2, 0, 1)


__all__ = ["GOLDEN", "close", "fill_state_dict", "images_u8", "load", "load_json", "stats", "tensor", "values"]
