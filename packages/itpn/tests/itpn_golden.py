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
FORWARD = 2e-4  # relative to the greatest magnitude of the array


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a reference case as tensors."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files if data[key].dtype.kind in "fiub"}


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


@lru_cache(maxsize=1)  # the same network fused and plain
def _filled(name: str, seed: int) -> dict[str, Tensor]:
    state = {key: torch.zeros(shape, dtype=kind) for key, (shape, kind) in keys(name).items()}
    return fill_state_dict(state, seed)


def image(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """The input images of a case, float32 ``(B, 3, H, W)``."""
    return tensor("input.image", (batch, 3, height, width), seed)


def close(actual: Tensor, expected: Tensor, tolerance: float = FORWARD) -> None:
    """Equal in shape, and up to ``tolerance`` times the greatest expected magnitude in every element."""
    actual, expected = actual.detach().double(), expected.double()
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} against {tuple(expected.shape)}"
    worst, greatest = float((actual - expected).abs().max()), float(expected.abs().max())
    assert worst <= tolerance * greatest, f"off by {worst:.3g} of {greatest:.3g}, allowed {tolerance:g} of it"


PYRAMID = ("align_dim_", "split_", "block_16to8", "block_8to4", "fpn_modules")


def parts(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The entries of backbone and pyramid of an authors' state dict, without the buffer of indices."""
    neck = {key: value for key, value in state.items() if key.startswith(PYRAMID)}
    rest = {key: value for key, value in state.items() if key not in neck and key != "relative_position_index"}
    return rest, neck


__all__ = [
    "FORWARD",
    "GOLDEN",
    "close",
    "fill_state_dict",
    "filled",
    "image",
    "keys",
    "load",
    "load_json",
    "parts",
    "tensor",
    "values",
]
