"""Stacked candidates against one module per edge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from if_nas.candidates import EdgeOperators, SharedOperator, StackedSeparable, build_bank, take
from if_nas.operators import OPERATORS, Separable, register_operator
from vireo.backbones import global_batch_norm

EDGES, CHANNELS = 5, 4


def stacked_and_single(repeats: int = 2) -> tuple[StackedSeparable, list[Separable]]:
    """A stack in double precision, and modules with the same parameters."""
    stack = StackedSeparable(EDGES, CHANNELS, repeats).double()
    with torch.no_grad():
        for parameter in stack.norm.parameters():
            parameter.normal_()
    singles = []
    for edge in range(EDGES):
        single = Separable(CHANNELS, CHANNELS, repeats=repeats).double()
        kinds = zip(stack.depthwise, stack.pointwise, stack.norm)
        targets = [single.ops[4 * index + 1 : 4 * index + 4] for index in range(repeats)]
        for sources, modules in zip(kinds, targets):
            for source, module in zip(sources, modules):
                state = source.state_dict()
                part = {key: value.chunk(EDGES)[edge] if value.dim() else value for key, value in state.items()}
                module.load_state_dict(part)
        singles.append(single)
    return stack, singles


def run(stack: nn.Module, span: tuple[int, int], features: Tensor, weights: Tensor | None) -> Tensor:
    out: Tensor = stack(features, span, stack.cut([span])[span], weights)  # type: ignore[operator]
    return out


@pytest.mark.parametrize("repeats", [1, 2])
def test_stack_is_one_module_per_edge(repeats: int) -> None:
    torch.manual_seed(0)
    stack, singles = stacked_and_single(repeats)
    first, count = span = (1, 3)
    features = torch.randn(2, count * CHANNELS, 6, 5, dtype=torch.double, requires_grad=True)
    weights = torch.rand(count, dtype=torch.double, requires_grad=True)
    out = run(stack, span, features, weights)
    used = singles[first : first + count]
    terms = [single(part) for single, part in zip(used, features.chunk(count, 1))]
    expected = sum(weight * term for weight, term in zip(weights, terms))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    slope = torch.randn_like(out)
    found = torch.autograd.grad(out, [features, weights, *stack.parameters()], slope)
    wanted = torch.autograd.grad(expected, [features, weights], slope, retain_graph=True)
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)
    gradients = [torch.autograd.grad(expected, list(single.parameters()), slope, retain_graph=True) for single in used]
    for (name, _), ours in zip(stack.named_parameters(), found[2:]):
        kind, index, parameter = name.split(".")
        layer = 4 * int(index) + {"depthwise": 1, "pointwise": 2, "norm": 3}[kind]
        number = [key for key, _ in singles[0].named_parameters()].index(f"ops.{layer}.{parameter}")
        pieces = ours.chunk(EDGES)
        assert not any(pieces[edge].any() for edge in (0, 4)), "idle edges get zeros"
        for piece, gradient in zip(pieces[first:], gradients):
            torch.testing.assert_close(piece, gradient[number], atol=1e-11, rtol=1e-11)
    for number, norm in enumerate(stack.norm):
        for name in ("running_mean", "running_var"):
            ours = getattr(norm, name)
            theirs = torch.cat([getattr(single.ops[4 * number + 3], name) for single in singles])
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_global_statistics_of_one_process_change_nothing() -> None:
    torch.manual_seed(0)
    stack, other = StackedSeparable(EDGES, CHANNELS, 2), StackedSeparable(EDGES, CHANNELS, 2)
    other.load_state_dict(stack.state_dict())
    global_batch_norm(other)
    features, weights = torch.randn(2, 2 * CHANNELS, 4, 4), torch.tensor([0.3, 0.7])
    for _ in range(2):
        assert torch.equal(run(stack, (2, 2), features, weights), run(other, (2, 2), features, weights))
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in stack.state_dict().items())


def test_spans_are_cut_with_and_without_overlap() -> None:
    rows = torch.arange(12.0)
    assert [part.tolist() for part in take(rows, [(0, 1), (3, 2)], 2)] == [[0, 1], [6, 7, 8, 9]]
    assert [part.tolist() for part in take(rows, [(0, 2), (1, 3)], 2)] == [[0, 1, 2, 3], [2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("name", ["skip", "none", "avg_pool_3x3", "max_pool_3x3"])
def test_operators_without_parameters(name: str) -> None:
    bank = build_bank(name, EDGES, CHANNELS)
    assert isinstance(bank, SharedOperator)
    features, weights = torch.randn(2, 2 * CHANNELS, 4, 4), torch.tensor([0.3, 0.7])
    one, other = (OPERATORS[name](CHANNELS)(part) for part in features.chunk(2, 1))
    torch.testing.assert_close(run(bank, (1, 2), features, weights), 0.3 * one + 0.7 * other)
    assert torch.equal(run(bank, (1, 1), features[:, :CHANNELS], None), one)


def test_own_operator_with_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("if_nas.operators.OPERATORS", dict(OPERATORS))
    register_operator("conv1", lambda channels: nn.Conv2d(channels, channels, 1))
    bank = build_bank("conv1", EDGES, CHANNELS)
    assert isinstance(bank, EdgeOperators)
    features, weights = torch.randn(2, 2 * CHANNELS, 4, 4), torch.tensor([0.3, 0.7])
    parts = [bank.edges[edge](part) for edge, part in zip((1, 2), features.chunk(2, 1))]
    torch.testing.assert_close(run(bank, (1, 2), features, weights), 0.3 * parts[0] + 0.7 * parts[1])
    assert torch.equal(run(bank, (2, 1), features[:, CHANNELS:], None), parts[1])
