"""Helpers of the tests of pre-training: weights in the authors' layout, and norms of gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

NECK = ("align_dim_", "split_", "block_16to8", "block_8to4", "fpn_modules")


def our_name(key: str, own: set[str]) -> str:
    """The name of an entry of the authors' flat state dict in a model of a backbone, a neck and heads."""
    if key.startswith(NECK):
        return f"neck.{key}"
    return key if key in own else f"backbone.{key}"


def load_official(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load the authors' state dict strictly."""
    own = set(model.state_dict())
    model.load_state_dict({our_name(key, own): value for key, value in state.items() if not key.endswith("_index")})


def official_name(name: str) -> str:
    """The authors' name of a parameter."""
    return name.removeprefix("backbone.").removeprefix("neck.")


def official_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's state dict by the authors' names, without their index of relative positions."""
    return {official_name(name): tuple(value.shape) for name, value in model.state_dict().items()}


def flat(x: Tensor) -> Tensor:
    """Every 4999th value of each sample."""
    return x.reshape(len(x), -1)[:, ::4999]


def gradient_norms(model: nn.Module, numbers: dict[str, Tensor], tolerance: float = 1e-3) -> None:
    """The gradients of a model have the norms that a case states, of some and of all together."""
    gradients = {official_name(name): parameter.grad for name, parameter in model.named_parameters()}
    found = {name: gradient.double().norm() for name, gradient in gradients.items() if gradient is not None}
    for key, value in numbers.items():
        if key.startswith("gradnorm/"):
            assert float(found[key.removeprefix("gradnorm/")]) == pytest.approx(float(value), rel=tolerance), key
    total = torch.stack(list(found.values())).norm()
    assert float(total) == pytest.approx(float(numbers["gradnorm_total"]), rel=tolerance)
