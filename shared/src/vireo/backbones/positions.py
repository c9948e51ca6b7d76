"""Fixed position tables of vision transformers, computed in float64 and rounded once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Positions = Literal["sinusoid", "sincos_2d", "learned"]


def sinusoid_table(count: int, dim: int) -> Tensor:
    """1-D sinusoid over the token index, as in BEiT and its descendants: ``sin`` in even columns, ``cos`` in odd ones.

    The angle of position n in column j is ``n / 10000^(2 floor(j / 2) / dim)``.

    Returns:
        float32 ``(count, dim)``.
    """
    columns = torch.arange(dim, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None] / 10000 ** (2 * (columns // 2) / dim)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()


def sincos_2d_table(grid: tuple[int, int], dim: int) -> Tensor:
    """2-D sine and cosine of MAE: the first half of the columns encodes a token's column, the second half its row.

    Each half is ``[sin(m w), cos(m w)]`` with ``w_k = 10000^(-k / (dim / 4))``, k = 0 .. dim / 4 - 1.

    Args:
        grid: rows and columns of tokens.
        dim: a multiple of 4.

    Returns:
        float32 ``(rows * columns, dim)``, tokens in row-major order.

    Raises:
        ValueError: ``dim`` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine table needs a multiple of 4 columns, not {dim}")
    frequencies = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    halves = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    return torch.cat([part for angles in halves for part in (angles.sin(), angles.cos())], 1).float()


def position_table(kind: Positions, grid: tuple[int, int], dim: int, prefix_tokens: int = 0) -> Tensor:
    """The fixed table of ``kind`` for a grid of tokens; rows of prefix tokens (class token) are zero.

    Returns:
        float32 ``(1, prefix_tokens + rows * columns, dim)``.

    Raises:
        ValueError: ``learned`` has no fixed table.
    """
    if kind == "learned":
        raise ValueError("learned positions have no fixed table")
    table = sinusoid_table(grid[0] * grid[1], dim) if kind == "sinusoid" else sincos_2d_table(grid, dim)
    return torch.cat((torch.zeros(prefix_tokens, dim), table))[None]
