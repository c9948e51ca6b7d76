"""Relative positions of the units of a grid: bias tables as in BEiT, and the decomposed ones of ViTDet.

Legend of shapes: B images, N = R x C units of a grid, K visible ones, h heads, d channels of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


class Places(NamedTuple):
    """Where the tokens of a sequence stand.

    Attributes:
        grid: rows and columns of units.
        rows, columns: int64 ``(N,)`` of all units in row-major order, or ``(B, K)`` of the visible ones.
    """

    grid: Grid
    rows: Tensor
    columns: Tensor

    @property
    def all_units(self) -> bool:
        """Whether the sequence is the whole grid in its order."""
        return self.rows.ndim == 1


def places_of(grid: Grid, ids_keep: Tensor | None = None, device: torch.device | None = None) -> Places:
    """The places of all units of a grid, or of those ``ids_keep`` ``(B, K)``."""
    ids = torch.arange(grid[0] * grid[1], device=device) if ids_keep is None else ids_keep
    return Places(grid, ids // grid[1], ids % grid[1])


def relative_index(places: Places) -> Tensor:
    """Row of the bias table for each pair of query and key: ``(N, N)``, or ``(B, K, K)`` of visible units.

    ``(r_i - r_j + R - 1) (2 C - 1) + (c_i - c_j + C - 1)`` for query i and key j (section 3.1).
    """
    (height, width), rows, columns = places
    row = rows[..., :, None] - rows[..., None, :] + height - 1
    column = columns[..., :, None] - columns[..., None, :] + width - 1
    return row * (2 * width - 1) + column


def table_rows(grid: Grid) -> int:
    """Rows of the bias table of a grid: the differences between two of its units."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1)


def resize_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """A bias table ``((2 R - 1)(2 C - 1), h)`` of the grid ``old`` for the grid ``new``, bicubic."""
    if old == new:
        return table
    image = table.t().unflatten(1, (2 * old[0] - 1, 2 * old[1] - 1))[None]
    resized = F.interpolate(image, size=(2 * new[0] - 1, 2 * new[1] - 1), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).t()


def bias_of_table(table: Tensor, table_grid: Grid, places: Places) -> Tensor:
    """Additive attention bias: ``(1, h, N, N)`` of all units, ``(B, h, K, K)`` of visible ones.

    Args:
        table: ``((2 R - 1)(2 C - 1), h)``.
        table_grid: R and C; another grid of ``places`` resizes the table.
        places: of the tokens.
    """
    index = relative_index(places)
    columns = resize_table(table, table_grid, places.grid).t()  # (h, rows): a gather along rows needs no transposing
    bias = columns.index_select(1, index.flatten()).unflatten(1, index.shape)
    return bias[None] if places.all_units else bias.transpose(0, 1)


def decomposed_bias(queries: Tensor, table_h: Tensor, table_w: Tensor, places: Places) -> Tensor:
    """ViTDet's bias of rows and of columns: the query times a vector for either difference (section 3.6).

    Args:
        queries: ``(B, h, N, d)``, not scaled, of all units of the grid.
        table_h, table_w: ``(2 L - 1, d)``, shared by the heads; resized linearly where the grid is not L long.
        places: of the tokens.

    Returns:
        ``(B, h, N, N)``.
    """
    height, width = places.grid

    def vectors(table: Tensor, length: int) -> Tensor:
        if len(table) != 2 * length - 1:
            table = F.interpolate(table.t()[None], size=2 * length - 1, mode="linear", align_corners=False)[0].t()
        steps = torch.arange(length, device=table.device)
        return table[steps[:, None] - steps[None, :] + length - 1]  # (query, key, d)

    on_grid = queries.unflatten(2, (height, width))
    of_rows = torch.einsum("bhrcd,rkd->bhrck", on_grid, vectors(table_h, height))
    of_columns = torch.einsum("bhrcd,ckd->bhrck", on_grid, vectors(table_w, width))
    return (of_rows[..., :, None] + of_columns[..., None, :]).flatten(4).flatten(2, 3)
