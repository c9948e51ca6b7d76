"""Reference cases: loading the number files, comparing at the stated tolerances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of a reference case."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


def load_json(name: str) -> Any:
    """The content of a json file of the reference numbers."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def keys(name: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every entry of a state dict of the authors' code: ``reppoints_adap_r50``, say."""
    entries = load_json(f"{name}.keys").items()
    return {key: (tuple(entry["shape"]), getattr(torch, entry["dtype"])) for key, entry in entries}


def close(actual: Any, expected: Any, atol: float, rtol: float = 0.0) -> None:
    """Equal in shape, and in every element up to ``atol + rtol * |expected|``."""
    a, b = (np.asarray(x.detach() if isinstance(x, Tensor) else x, np.float64) for x in (actual, expected))
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    excess = float((np.abs(a - b) - rtol * np.abs(b)).max(initial=0.0))
    assert excess <= atol, f"off by {excess:.3g} beyond rtol={rtol:g}, allowed {atol:g}"
