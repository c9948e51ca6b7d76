"""Reference numbers of IF-NAS and how they are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of ``golden/<name>.npz``."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def load_json(name: str) -> Any:
    """``golden/<name>.json``"""
    return json.loads((FOLDER / f"{name}.json").read_text())


def close(got: Tensor | np.ndarray | float, wanted: np.ndarray, tolerance: float, what: str = "") -> None:
    """Compare to ``tolerance`` times the largest magnitude of ``wanted``, exactly where they are all 0.

    Raises:
        AssertionError: shapes or values differ.
    """
    values = got.detach().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
    assert values.shape == wanted.shape, f"{what}: shape {values.shape}, wanted {wanted.shape}"
    scale = float(np.abs(wanted).max(initial=0))
    worst = float(np.abs(values.astype(np.float64) - wanted).max(initial=0))
    assert worst <= tolerance * scale, f"{what}: off by {worst:.2e} at a scale of {scale:.2e}"


def every(values: Tensor, step: int) -> Tensor:
    """Every ``step``-th value of the flattened tensor."""
    return torch.as_tensor(values).detach().reshape(-1)[::step]
