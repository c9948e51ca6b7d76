"""Random masking: what stays, what is removed, and where it belongs; fixed position tables."""

from __future__ import annotations

import math

import pytest
import torch

from vireo.backbones.masking import gather_tokens, random_masking, visible_tokens
from vireo.backbones.positions import position_table, sincos_2d_table, sinusoid_table
from vireo.errors import InputError


@pytest.mark.parametrize(("tokens", "ratio", "kept"), [(196, 0.75, 49), (49, 0.75, 12), (10, 0.0, 10), (3, 0.5, 1)])
def test_count_is_truncated(tokens: int, ratio: float, kept: int) -> None:
    assert visible_tokens(tokens, ratio) == kept


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75])
def test_parts_of_a_mask_fit_each_other(ratio: float) -> None:
    noise = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    mask = random_masking(noise, ratio)
    kept = visible_tokens(20, ratio)
    assert mask.ids_keep.shape == (3, kept)
    assert mask.mask.sum(1).tolist() == [20 - kept] * 3
    both = torch.cat((mask.ids_keep, mask.ids_removed), 1)
    assert torch.equal(both.gather(1, mask.ids_restore), torch.arange(20).expand(3, -1))
    assert torch.equal(mask.mask.nonzero()[:, 1].view(3, -1), mask.ids_removed.sort(1).values)
    for row, keep in zip(noise, mask.ids_keep):
        assert row[keep].tolist() == sorted(row.tolist())[:kept]  # the least noise, in its order


def test_equal_noise_keeps_the_order() -> None:
    mask = random_masking(torch.tensor([[0.5, 0.0, 0.5, 0.5, 0.0]]), 0.4)
    assert mask.ids_keep.tolist() == [[1, 4, 0]]
    assert mask.ids_removed.tolist() == [[2, 3]]


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, math.nan, math.inf])
def test_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(InputError, match=r"mask_ratio=.*not in \[0, 1\)"):
        random_masking(torch.zeros(1, 16), ratio)


@pytest.mark.parametrize("tokens", [0, 3])
def test_no_token_is_left(tokens: int) -> None:
    with pytest.raises(InputError, match="no visible token"):
        random_masking(torch.zeros(1, tokens), 0.75)


def test_gather_tokens() -> None:
    tokens = torch.arange(24.0).view(2, 4, 3)
    assert torch.equal(
        gather_tokens(tokens, torch.tensor([[3, 0], [1, 1]]))[:, :, 0], torch.tensor([[9.0, 0], [15, 15]])
    )


def test_sinusoid_is_its_formula() -> None:
    table = sinusoid_table(30, 6)
    for position, column in ((0, 0), (7, 0), (7, 1), (29, 4), (29, 5)):
        angle = position / 10000 ** (2 * (column // 2) / 6)
        expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
        assert table[position, column].item() == pytest.approx(expected, abs=1e-7)


def test_two_dimensional_table_of_a_wide_grid() -> None:
    """Columns of the grid in the first half, rows in the second, tokens row by row."""
    table = sincos_2d_table((2, 5), 8).view(2, 5, 8)
    assert torch.equal(table[0, :, :4], table[1, :, :4])
    assert torch.equal(table[:, :1, 4:].expand(-1, 5, -1), table[:, :, 4:])
    column = [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]
    row = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    assert table[1, 3].tolist() == pytest.approx([*column, *row])
    assert not position_table("sincos_2d", (2, 5), 8, prefix_tokens=1)[0, 0].any()


@pytest.mark.parametrize(("kind", "dim"), [("learned", 8), ("rotary", 8), ("sincos_2d", 6)])
def test_no_such_table(kind: str, dim: int) -> None:
    with pytest.raises(InputError):
        position_table(kind, (2, 2), dim)  # type: ignore[arg-type]
