"""Reference cases: loading the number files, rebuilding parameters and inputs, comparing at the stated tolerances."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dqnet import DQnet, RelationBasedQuery
from dqnet.layouts import from_official_names, official_name
from vireo.testing import fill_state_dict, tensor

GOLDEN = Path(__file__).parent / "golden"
FORWARD = 5e-5  # absolute, of whole networks
MODULE = 5e-6  # absolute, of single modules


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a reference case as tensors."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files if data[key].dtype.kind in "fiub"}


def load_json(name: str) -> Any:
    """The content of a json file of the reference numbers."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def keys() -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every entry of the authors' state dict."""
    return {key: (tuple(shape), getattr(torch, kind)) for key, (shape, kind) in load_json("dqnet_b_384.keys").items()}


@lru_cache(maxsize=1)
def _filled(seed: int) -> dict[str, Tensor]:
    return fill_state_dict({key: torch.zeros(shape, dtype=kind) for key, (shape, kind) in keys().items()}, seed)


def filled(seed: int) -> dict[str, Tensor]:
    """The authors' state dict, floating entries filled by their names; its tensors are not to be changed in place."""
    return dict(_filled(seed))


def filled_model(seed: int, drop_path_rate: float = 0.1) -> DQnet:
    """The published network with parameters filled under the authors' names, in evaluation mode."""
    with torch.device("meta"):  # nothing is drawn that is filled anyway
        model = DQnet(vit={"name": "vit_base_patch16", "drop_path_rate": drop_path_rate})
    model.load_state_dict(from_official_names(filled(seed)), assign=True)
    for module in model.modules():
        if isinstance(module, RelationBasedQuery):
            module.rows = torch.arange(module.window)[:, None] - torch.arange(module.window) + module.window - 1
    return model.eval()


@torch.no_grad()
def fill_module(module: nn.Module, prefix: str, seed: int, names: Any = None) -> nn.Module:
    """Fill a part of the network by the authors' names; ``prefix`` is ours, or theirs with ``names=str``."""
    rename = names or official_name
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(tensor(rename(prefix + name), tuple(value.shape), seed))
    return module.eval()


def close(actual: Tensor, expected: Tensor, atol: float, rtol: float = 0.0) -> None:
    """Equal in shape, and in every element up to ``atol + rtol * |expected|``."""
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} against {tuple(expected.shape)}"
    excess = ((actual - expected).abs() - rtol * expected.abs()).max()
    assert float(excess) <= atol, f"off by {float(excess):.3g} beyond rtol={rtol:g}, allowed {atol:g}"


def stats(x: Tensor) -> Tensor:
    """Mean, unbiased deviation, largest and mean magnitude, in float64."""
    x = x.detach().double()
    return torch.stack([x.mean(), x.std(), x.abs().max(), x.abs().mean()])


def thinned(x: Tensor, channels: int, space: int = 1) -> Tensor:
    """Every k-th channel, row and column."""
    return x[:, ::channels, ::space, ::space]
