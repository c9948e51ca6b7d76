"""Reference cases: loading the number files and comparing at the stated tolerances."""

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
        return {key: torch.from_numpy(data[key]) for key in data.files if data[key].dtype.kind != "U"}


def load_json(name: str) -> Any:
    """The content of a json file of the reference numbers."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def close(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Equal up to ``relative`` of the largest magnitude expected."""
    actual = actual.detach()
    expected = expected.to(actual.dtype).reshape(actual.shape)
    bound = relative * max(float(expected.abs().max()) if expected.numel() else 0.0, 1e-12)
    worst = float((actual - expected).abs().max()) if expected.numel() else 0.0
    assert worst <= bound, f"off by {worst:.3g}, allowed {bound:.3g}"


def unpacked(bits: Tensor, count: int) -> Tensor:
    """Hard gates ``(B, count)`` of a packed array."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=1)[:, :count]).float()


__all__ = ["GOLDEN", "close", "fill_state_dict", "load", "load_json", "tensor", "unpacked", "values"]
