"""Reference cases: loading the number files, rebuilding parameters and inputs, comparing at the stated tolerances."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireo.testing import fill_state_dict, tensor, values

GOLDEN = Path(__file__).parent / "golden"
FORWARD = 1e-4  # relative and absolute, of what networks answer
LOSS = 1e-5  # relative
GRADIENT_NORM = 1e-3  # relative
TABLE = 1e-6


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a reference case as tensors."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files if data[key].dtype.kind in "fiub"}


def load_names(name: str, key: str) -> list[str]:
    """An array of strings of a reference case."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return [str(entry) for entry in data[key]]


def load_json(name: str) -> Any:
    """The content of a json file of the reference numbers."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def keys(name: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every entry of the authors' state dict of a case."""
    return {
        key: (tuple(shape), getattr(torch, str(kind).removeprefix("torch.")))
        for key, (shape, kind) in load_json(f"{name}.keys").items()
    }


def filled(name: str, seed: int = 0) -> dict[str, Tensor]:
    """The authors' state dict of a case, floating entries filled by their names; integer buffers stay zero.

    The tensors are shared between calls: not to be changed in place.
    """
    return dict(_filled(name, seed))


@lru_cache(maxsize=2)  # a teacher and a student
def _filled(name: str, seed: int) -> dict[str, Tensor]:
    state = {key: torch.zeros(shape, dtype=kind) for key, (shape, kind) in keys(name).items()}
    return fill_state_dict(state, seed)


def sampled(case: dict[str, Tensor], name: str, actual: Tensor, rtol: float = FORWARD, atol: float = FORWARD) -> None:
    """Compare a tensor with a stored one, which may be thinned out to every k-th value, and its statistics."""
    expected, actual = case[name], actual.detach()
    if f"{name}__shape" not in case:
        close(actual, expected, rtol, atol)
        return
    assert list(actual.shape) == case[f"{name}__shape"].tolist(), f"{name}: {tuple(actual.shape)}"
    close(actual.flatten()[:: int(case[f"{name}__k"])], expected, rtol, atol)
    whole = actual.double()
    found = torch.stack([whole.mean(), whole.std(unbiased=False), whole.abs().max()])
    close(found, case[f"{name}__stats"], rtol, atol)


def close(actual: Tensor, expected: Tensor, rtol: float = FORWARD, atol: float = FORWARD) -> None:
    """Equal in shape, and in every element up to ``atol + rtol * |expected|``."""
    actual, expected = actual.detach().double(), expected.double()
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} against {tuple(expected.shape)}"
    excess = ((actual - expected).abs() - rtol * expected.abs()).max()
    assert float(excess) <= atol, f"off by {float(excess):.3g} beyond rtol={rtol:g}, allowed {atol:g}"


def image(batch: int, height: int, width: int, seed: int = 0, name: str = "input.image") -> Tensor:
    """The input images of a case, float32 ``(B, 3, H, W)``."""
    return tensor(name, (batch, 3, height, width), seed)


__all__ = [
    "FORWARD",
    "GOLDEN",
    "GRADIENT_NORM",
    "LOSS",
    "TABLE",
    "close",
    "fill_state_dict",
    "filled",
    "image",
    "keys",
    "load",
    "load_json",
    "load_names",
    "sampled",
    "tensor",
    "values",
]
