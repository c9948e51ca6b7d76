"""Reference cases: loading the number files, rebuilding the authors' parameters, comparing at the stated tolerances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssd_det.official import from_official, to_official
from vireo.testing import fill_state_dict, tensor, values

GOLDEN = Path(__file__).parent / "golden"
STRIDES = (4, 8, 16, 32, 64)


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a reference case as tensors."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files if data[key].dtype.kind != "U"}


def names(name: str, entry: str) -> list[str]:
    """A list of strings of a reference case."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return data[entry].tolist()


def fill_official(model: nn.Module, seed: int) -> None:
    """Give every parameter and buffer the value that the authors' key and the seed stand for."""
    state = {key: value.clone() for key, value in to_official(model.state_dict()).items()}
    from_official(model, fill_state_dict(state, seed))


def close(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Equal up to ``relative`` of the largest magnitude expected."""
    expected = expected.to(actual.dtype).reshape(actual.shape)
    bound = relative * max(float(expected.abs().max()) if expected.numel() else 0.0, 1e-12)
    worst = float((actual - expected).abs().max()) if expected.numel() else 0.0
    assert worst <= bound, f"off by {worst:.3g}, allowed {bound:.3g}"


def split(case: dict[str, Tensor], name: str) -> list[Tensor]:
    """A concatenated array of a case per image."""
    return list(case[name].split(case["n"].tolist()))


class FixedDraws:
    """The explicit draws of a case: its uniforms for the negatives, the first candidates in order for the samplers."""

    def __init__(self, uniform: Tensor) -> None:
        self.uniform = uniform

    def __call__(self, stream: str, num_images: int, n: int, device: torch.device) -> Tensor:
        if stream == "negatives":
            return self.uniform.flatten(1)
        return torch.arange(n, dtype=torch.float32).expand(num_images, n)


__all__ = ["GOLDEN", "STRIDES", "FixedDraws", "close", "fill_official", "load", "names", "split", "tensor", "values"]
