"""Static compaction is exact where the gates agree with the calibration."""

from __future__ import annotations

import pytest
import torch
from fgc_golden import close
from fgc_networks import build, set_gates
from torch import nn

from fgc.compact import compact_static_gates
from fgc.executor import ConditionalExecutor
from fgc.gate import gates_of
from vireo.errors import InputError


def _partly_constant(model: nn.Module) -> None:
    """The first quarter of every gate is always off, the second always on."""
    for gate in gates_of(model):
        bias = gate.mlp.get_parameter("fc2.bias").data
        quarter = len(bias) // 4
        bias[:quarter], bias[quarter : 2 * quarter] = -1e4, 1e4


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "bottleneck", "grouped"])
def test_exact_on_the_calibration(name: str) -> None:
    model, images = build(name)
    _partly_constant(model)
    expected = model(images)
    compact, report = compact_static_gates(model, [images[:1], (images[1:], None)])
    close(compact(images), expected)
    assert torch.equal(model(images), expected)
    gates = gates_of(model)
    assert [sum(entry) for entry in report] == [gate.out_channels for gate in gates]
    if name != "grouped":
        assert all(entry.removed >= gate.out_channels // 4 for entry, gate in zip(report, gates))
        assert all(entry.constant_on >= gate.out_channels // 4 for entry, gate in zip(report, gates))
        assert sum(p.numel() for p in compact.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("mode", ["masked", "gather"])
def test_compacted_networks_execute(mode: str) -> None:
    model, images = build("resnet20")
    _partly_constant(model)
    many = torch.randn(32, 3, 32, 32)
    compact, report = compact_static_gates(model, [images, many])
    assert any(entry.conditional for entry in report)
    close(ConditionalExecutor(compact, mode)(images), model(images))


@pytest.mark.parametrize("channels", [None, [], [1, 4]], ids=["all", "none", "two"])
def test_constant_gates_disappear(channels: list[int] | None) -> None:
    model, images = build("resnet20")
    set_gates(model, channels)
    compact, report = compact_static_gates(model, [images])
    close(compact(images), model(images))
    assert gates_of(compact) == []
    assert all(entry.conditional == 0 for entry in report)
    if channels is not None:
        assert all(entry.constant_on == len(channels) for entry in report)


def test_mistakes() -> None:
    model, images = build("resnet20")
    with pytest.raises(InputError, match="has no gates"):
        compact_static_gates(nn.Linear(1, 1), [images])
    with pytest.raises(InputError, match="no calibration images"):
        compact_static_gates(model, [])
    with pytest.raises(InputError, match="never changed in calibration"):
        compact_static_gates(model, [images[:1]], check=[torch.randn(16, 3, 32, 32)])
    compact_static_gates(model, [images], check=[images[:1]])
