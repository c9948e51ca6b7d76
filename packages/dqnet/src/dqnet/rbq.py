"""Relation-based querying: windowed cross-attention from a global to a detail map (section 3.3 of the notes).

Legend of shapes: B images, D channels, h x w places of the grid, W windows of n = s x s places, H heads of c = D / H
channels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError

Fusion = Literal["gate", "sum"]

_MASKED = -1e4  # added to the logits of what does not take part: its weight is 0 in every precision


class RelationBasedQuery(nn.Module):
    """A global map queries a detail map, window by window, and the answer is fused with both.

    Logits have decomposed relative-position terms, as in MViTv2. Maps that windows do not divide are padded with zeros
    at the bottom and the right; padded places have keys and values (the projections' biases) and take part, as in the
    authors' code, unless ``mask_padding``.

    The computation is fused: places are projected before they are padded, and relative positions are further channels
    of queries and keys (a query's products with the tables against rows and columns one-hot), so that one call of
    scaled dot-product attention, without a matrix of biases, does the rest. Equal to the plain form up to rounding.

    Args:
        dim: channels D of both maps.
        window: side s of the windows; one at least as large as the map makes it global attention.
        heads: H.
        fusion: ``gate`` multiplies the answer by the query map and adds the detail map (the authors' code); ``sum``
            adds all three (their figure).
        mask_padding: leave padded places out of the attention.

    Raises:
        InputError: sizes that are not positive or do not divide, or an unknown fusion.
    """

    rows: Tensor

    def __init__(
        self, dim: int, window: int = 10, heads: int = 8, fusion: Fusion = "gate", mask_padding: bool = False
    ) -> None:
        super().__init__()
        where = type(self).__name__
        if heads < 1 or dim < 1 or dim % heads:
            raise InputError(f"{dim} channels are not divided by {heads} heads", where, "use another number of heads")
        if window < 1:
            raise InputError(f"a window of {window} places", where, "use at least 1; the paper's is 10")
        if fusion not in ("gate", "sum"):
            raise InputError(f"unknown fusion {fusion!r}", where, "use gate or sum")
        self.dim, self.window, self.heads, self.fusion, self.mask_padding = dim, window, heads, fusion, mask_padding
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, dim // heads))
        side = torch.arange(window)
        self.register_buffer("rows", side[:, None] - side[None] + window - 1, persistent=False)  # (s, s), of the tables

    def attend(self, query_map: Tensor, detail_map: Tensor) -> Tensor:
        """The answer alone, before the fusion: two maps ``(B, D, h, w)`` to one.

        Raises:
            InputError: maps whose shapes differ, or of another number of channels.
        """
        if query_map.shape != detail_map.shape or query_map.shape[1] != self.dim:
            what = f"maps {tuple(query_map.shape)} and {tuple(detail_map.shape)} for {self.dim} channels"
            raise InputError(what, type(self).__name__, "bring both to one grid and this number of channels")
        height, width = query_map.shape[-2:]
        s, c = self.window, self.dim // self.heads
        queries = self.q(query_map.permute(0, 2, 3, 1)) * c**-0.5  # (B, h, w, D)
        keys_values = self.kv(detail_map.permute(0, 2, 3, 1))
        pad = (0, 0, 0, -width % s, 0, -height % s)
        padded = any(pad)
        if padded:
            queries = F.pad(queries, pad)  # answers to these are cut off
            # what the projection makes of a place of zeros
            bias = self.kv.bias.to(keys_values.dtype)
            keys_values = F.pad(keys_values - bias, pad) + bias
        grid = queries.shape[1] // s, queries.shape[2] // s
        q = self._windows(queries, grid)  # (B * W, H, s, s, c)
        k, v = self._windows(keys_values, grid).chunk(2, 1)
        # Q_i . Rh[y_i - y_j + s - 1] for every row y_j, and the same for columns: (B * W, H, s, s, s)
        by_row = torch.einsum("bhyxc,yjc->bhyxj", q, self.rel_pos_h[self.rows].to(q.dtype))
        by_column = torch.einsum("bhyxc,xjc->bhyxj", q, self.rel_pos_w[self.rows].to(q.dtype))
        more_q, more_k = [by_row, by_column], [self._places(q)]
        if padded and self.mask_padding:
            more_q.append(q.new_ones(*q.shape[:-1], 1))
            more_k.append(self._padding(q, height, width, grid))
        wide = c + sum(part.shape[-1] for part in more_q)
        answer = F.scaled_dot_product_attention(
            torch.cat((q, *more_q), -1).flatten(2, 3),
            torch.cat((k, *(part.expand(*k.shape[:-1], -1) for part in more_k)), -1).flatten(2, 3),
            F.pad(v, (0, wide - c)).flatten(2, 3),  # fused kernels want one width
            scale=1.0,
        )[..., :c]
        # (B * W, H, n, c) -> (B, h, w, D)
        answer = answer.unflatten(2, (s, s)).unflatten(0, (-1, *grid)).permute(0, 1, 4, 2, 5, 3, 6)
        merged = answer.flatten(5).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        projected: Tensor = self.proj(merged)
        return projected.permute(0, 3, 1, 2)

    def forward(self, query_map: Tensor, detail_map: Tensor) -> Tensor:
        """Maps ``(B, D, h, w)`` to the fused map of that shape: ``answer * query + detail`` with ``gate``.

        Raises:
            InputError: see :meth:`attend`.
        """
        answer = self.attend(query_map, detail_map)
        if self.fusion == "sum":
            return answer + query_map + detail_map
        return answer * query_map + detail_map

    def _windows(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """``(B, h, w, k D)`` to ``(B * W, k H, s, s, c)``."""
        s, c = self.window, self.dim // self.heads
        split = tokens.unflatten(3, (-1, c)).unflatten(2, (grid[1], s)).unflatten(1, (grid[0], s))
        return split.permute(0, 1, 3, 5, 2, 4, 6).flatten(0, 2)

    def _places(self, like: Tensor) -> Tensor:
        """The row of each place of a window one-hot, then its column: ``(s, s, 2 s)``."""
        s = self.window
        one_hot = torch.eye(s, dtype=like.dtype, device=like.device)
        return torch.cat((one_hot[:, None].expand(s, s, s), one_hot[None].expand(s, s, s)), -1)

    def _padding(self, like: Tensor, height: int, width: int, grid: tuple[int, int]) -> Tensor:
        """What the logits of padded places get, 0 for the others: ``(B * W, 1, s, s, 1)``."""
        s = self.window
        mask = like.new_zeros(grid[0] * s, grid[1] * s)
        mask[height:] = _MASKED
        mask[:, width:] = _MASKED
        windows = mask.view(grid[0], s, grid[1], s).transpose(1, 2).reshape(-1, 1, s, s, 1)
        return windows.repeat(len(like) // math.prod(grid), 1, 1, 1, 1)
