"""The query against its plain form, on any grid, and what it refuses."""

from __future__ import annotations

from typing import Any

import dqnet_explicit
import pytest
import torch
from torch import Tensor

from dqnet import RelationBasedQuery
from vireo.errors import InputError

# grids that windows of 4 divide, cut at one side, at the other, at both, and smaller ones
GRIDS = [(8, 4), (4, 6), (7, 8), (10, 7), (3, 2), (4, 4), (1, 9)]


def some_query(**options: Any) -> RelationBasedQuery:
    torch.manual_seed(0)
    query = RelationBasedQuery(24, window=4, heads=3, **options)
    for value in query.parameters():  # biases and tables start at or near zero
        torch.nn.init.normal_(value, std=0.3)
    return query


def some_maps(height: int, width: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 24, height, width, generator=generator) for _ in range(2)]


def outcome(query: RelationBasedQuery, fuse: Any, maps: list[Tensor]) -> list[Tensor]:
    """Output, gradients of both maps, and of all parameters; in float64."""
    query.double().zero_grad()
    inputs = [x.double().requires_grad_() for x in maps]
    fused = fuse(*inputs)
    fused.square().sum().backward()
    learnt: list[Any] = [p.grad for p in query.parameters()]
    return [fused, *(x.grad for x in inputs if x.grad is not None), *(gradient.clone() for gradient in learnt)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("path", ["_by_region", "_fused"])
def test_equals_the_plain_form(
    path: str, mask_padding: bool, grid: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = some_query(mask_padding=mask_padding)
    monkeypatch.setattr(query, "_by_region", getattr(query, path))  # the other is that of a GPU
    maps = some_maps(*grid)
    found = outcome(query, query, maps)
    expected = outcome(query, lambda *inputs: dqnet_explicit.fuse(query, *inputs), maps)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_biases_of_keys_have_no_effect() -> None:
    query, maps = some_query(), some_maps(7, 6)
    expected = dqnet_explicit.fuse(query, *maps)
    with torch.no_grad():
        query.kv.bias[:24] = 5.0
    torch.testing.assert_close(dqnet_explicit.fuse(query, *maps), expected, atol=1e-4, rtol=1e-4)
    query(*maps).sum().backward()
    assert query.kv.bias.grad is not None
    assert query.kv.bias.grad[:24].abs().max() == 0
    assert query.kv.bias.grad[24:].abs().min() > 0


def test_padding_takes_part_unless_masked() -> None:
    query, masked = some_query(), some_query(mask_padding=True)
    whole, cut = some_maps(8, 4), some_maps(7, 6)
    assert torch.equal(query(*whole), masked(*whole))
    assert (query(*cut) - masked(*cut)).abs().max() > 1e-3
    windows = 4, 4  # of the map of 7 x 6; the first is whole
    first = (slice(None), slice(None), slice(windows[0]), slice(windows[1]))
    torch.testing.assert_close(query(*cut)[first], masked(*cut)[first])


def test_sum_adds_all_three() -> None:
    product, total = some_query(), some_query(fusion="sum")
    asked, detail = some_maps(5, 5)
    answer = product.attend(asked, detail)
    torch.testing.assert_close(product(asked, detail), answer * asked + detail)
    torch.testing.assert_close(total(asked, detail), answer + asked + detail)


def test_places_beyond_the_window_do_not_matter() -> None:
    query, (asked, detail) = some_query(), some_maps(8, 8)
    other = detail.clone()
    other[..., 4:, :] += 1
    with torch.no_grad():
        before, after = query.attend(asked, detail), query.attend(asked, other)
    assert torch.equal(before[..., :4, :], after[..., :4, :])
    assert not torch.equal(before[..., 4:, :], after[..., 4:, :])


def test_compiles_as_one_graph() -> None:
    query, maps = some_query(), some_maps(7, 6)
    compiled = torch.compile(query, fullgraph=True, backend="eager")
    expected = outcome(query, query, maps)
    for ours, theirs in zip(outcome(query, compiled, maps), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("path", ["_by_region", "_fused"])
def test_bfloat16_stays_near(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, maps = some_query(mask_padding=True), some_maps(7, 6)
    monkeypatch.setattr(query, "_by_region", getattr(query, path))
    with torch.autocast("cpu", torch.bfloat16):
        found = query.attend(*maps)
    expected = query.attend(*maps)
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 10, "heads": 3}, "10 channels are not divided by 3 heads"),
        ({"window": 0}, "a window of 0 places"),
        ({"fusion": "product"}, "unknown fusion 'product'"),
    ],
)
def test_impossible_sizes(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        RelationBasedQuery(**{"dim": 24, "heads": 3, **options})


@pytest.mark.parametrize("shape", [(2, 24, 5, 6), (2, 12, 5, 5)])
def test_maps_that_do_not_fit(shape: tuple[int, ...]) -> None:
    query, other = some_query(), torch.zeros(shape)
    asked = torch.zeros(2, 24, 5, 5) if shape[1] == 24 else other
    with pytest.raises(InputError, match="bring both to one grid"):
        query(asked, other)
