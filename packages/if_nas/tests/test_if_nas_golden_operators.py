"""The operators against the authors' numbers, and the register of operators."""

from __future__ import annotations

import pytest
import torch
from if_nas_golden import close, load
from torch import nn

from if_nas.operators import (
    OPERATORS,
    FactorizedReduce,
    ReLUConvBN,
    Separable,
    build_operator,
    register_operator,
)
from vireo.errors import InputError
from vireo.testing import fill_state_dict, tensor

GOLDEN = load("ops")
MODULES = {
    "factorized_reduce": lambda: FactorizedReduce(8, 8),
    "sep_expand": lambda: Separable(8, 12, stride=2),
    "relu_conv_bn": lambda: ReLUConvBN(8, 12),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_operator(name: str) -> None:
    module: nn.Module = MODULES[name]() if name in MODULES else build_operator(name, 8)
    fill_state_dict(module.state_dict(), 0)
    with torch.no_grad():
        close(module.eval()(tensor("input", (2, 8, 10, 10))), GOLDEN[name], 1e-5, name)


def test_all_operators_have_numbers() -> None:
    assert set(OPERATORS) == set(GOLDEN) - set(MODULES)


def test_separable_convolution_leaves_its_input_alone() -> None:
    features = tensor("input", (2, 8, 6, 6))
    before = features.clone()
    build_operator("conv3", 8)(features)
    assert torch.equal(features, before)


def test_unknown_operator_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown operator 'conv9'.*conv3.*register_operator"):
        build_operator("conv9", 8)


def test_own_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("if_nas.operators.OPERATORS", dict(OPERATORS))
    register_operator("conv1", lambda channels: nn.Conv2d(channels, channels, 1))
    assert build_operator("conv1", 4)(torch.zeros(1, 4, 3, 3)).shape == (1, 4, 3, 3)
    with pytest.raises(InputError, match="'conv1' exists already"):
        register_operator("conv1", nn.Identity)
