"""Fixed position tables of vision transformers, computed in float64 and rounded once."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vireo.errors import InputError

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
        InputError: ``dim`` is no multiple of 4.
    """
    if dim % 4:
        raise InputError(f"{dim} channels are no multiple of 4", "sincos_2d positions", "use another width")
    frequencies = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    halves = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    return torch.cat([part for angles in halves for part in (angles.sin(), angles.cos())], 1).float()


def position_table(kind: Positions, grid: tuple[int, int], dim: int, prefix_tokens: int = 0) -> Tensor:
    """The fixed table of ``kind`` for a grid of tokens; rows of prefix tokens (class token) are zero.

    Returns:
        float32 ``(1, prefix_tokens + rows * columns, dim)``.

    Raises:
        InputError: another ``kind``, or one that does not suit ``dim``.
    """
    if kind not in ("sinusoid", "sincos_2d"):
        raise InputError(f"no fixed table of {kind!r}", "positions", "use sinusoid or sincos_2d")
    table = sinusoid_table(grid[0] * grid[1], dim) if kind == "sinusoid" else sincos_2d_table(grid, dim)
    return torch.cat((torch.zeros(prefix_tokens, dim), table))[None]


def require_fixed_table(rows: Tensor, kind: Positions, grid: tuple[int, int], dim: int, where: str) -> None:
    """Check that stored positions are the fixed ones of ``kind``, so that a network may use its own in their place.

    Args:
        rows: float ``(1, N, D)`` of the patches, of ``grid`` or of any square one.
        kind, grid, dim: of the network.
        where: of the message.

    Raises:
        InputError: other positions (learned, or another kind), which the network would not reproduce.
    """
    count = rows.shape[1]
    side = math.isqrt(count)
    expected = position_table(kind, grid if count == grid[0] * grid[1] else (side, side), dim)
    if rows.shape != expected.shape or not torch.allclose(rows.float().cpu(), expected, atol=2e-3):
        what = f"the stored positions {tuple(rows.shape)} are not the fixed {kind} ones of a grid of {dim} channels"
        raise InputError(what, where, "build the network with the positions of its training, or with learned ones")
