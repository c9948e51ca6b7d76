"""Relation-based querying: windowed cross-attention from a global to a detail map (section 3.3 of the notes).

Legend of shapes: B images, D channels, h x w places of the grid, N windows (of all images) of y x x places, H heads of
c = D / H channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError

Fusion = Literal["gate", "sum"]

_MASKED = -1e4  # added to the logits of what does not take part: its weight is 0 in every precision
_Span = tuple[int, int]  # of rows or columns: how many, and how many of them a window has


class RelationBasedQuery(nn.Module):
    """A global map queries a detail map, window by window, and the answer is fused with both.

    Logits have decomposed relative-position terms, as in MViTv2. Maps that windows do not divide are padded with zeros
    at the bottom and the right; padded places have keys and values (the projections' biases) and take part, as in the
    authors' code, unless ``mask_padding``.

    The computation is exact and does less than the definition says. Only real places are projected. A bias of the keys
    moves all logits of a query alike, so it is left out, and one of the values is added to the answers; then keys and
    values of padded places are zero. On a GPU relative positions are further channels of queries and keys, so that one
    fused attention does the rest; elsewhere windows that reach over the edge are computed by themselves, without the
    places that are not there.

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
        queries = self.q(query_map.permute(0, 2, 3, 1)) * (self.dim // self.heads) ** -0.5  # (B, h, w, D)
        keys, values = F.linear(detail_map.permute(0, 2, 3, 1), self.kv.weight).chunk(2, -1)
        attention = self._fused if queries.is_cuda else self._by_region
        answers = attention(queries, keys, values) + self.kv.bias[self.dim :]  # their weights sum to 1
        projected: Tensor = self.proj(answers)
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

    def _by_region(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Answers ``(B, h, w, D)``: of whole windows, and of those cut at the right, at the bottom and at both."""
        rows, columns = (_spans(side, self.window) for side in queries.shape[1:3])

        def regions(tokens: Tensor) -> list[tuple[Tensor, ...]]:
            bands = tokens.split([count for count, _ in rows], 1)
            return [band.split([count for count, _ in columns], 2) for band in bands]

        bands = []
        for (_, height), *band in zip(rows, *map(regions, (queries, keys, values)), strict=True):
            parts = zip(columns, *band, strict=True)
            bands.append(_joined([self._region(q, k, v, height, width) for (_, width), q, k, v in parts], 2))
        return _joined(bands, 1)

    def _region(self, queries: Tensor, keys: Tensor, values: Tensor, height: int, width: int) -> Tensor:
        """Answers in windows of ``height x width`` real places, which tile the region ``(B, h, w, D)``."""
        q, k, v = (self._windows(tokens, height, width) for tokens in (queries, keys, values))
        rows, columns = (height, width) if self.mask_padding else (self.window, self.window)
        by_row, by_column = self._relative(q, rows, columns)
        products = (q.flatten(2, 3) @ k.flatten(2, 3).mT).unflatten(3, (height, width)).unflatten(2, (height, width))
        padded = (height, width) != (rows, columns)
        if padded:
            products = F.pad(products, (0, columns - width, 0, rows - height))
        logits = products + (by_row[..., :, None] + by_column[..., None, :])
        weights = logits.flatten(4).softmax(4).flatten(2, 3)
        if padded:
            weights = weights.unflatten(3, (rows, columns))[..., :height, :width].flatten(3)
        return self._merged(weights @ v.flatten(2, 3), queries.shape, height, width)

    def _fused(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Answers ``(B, h, w, D)``, all windows padded to one size and in one call."""
        (height, width), s, c = queries.shape[1:3], self.window, self.dim // self.heads
        pad = (0, 0, 0, -width % s, 0, -height % s)
        if any(pad):
            queries, keys, values = (F.pad(tokens, pad) for tokens in (queries, keys, values))
        q, k, v = (self._windows(tokens, s, s) for tokens in (queries, keys, values))
        more_q, more_k = [*self._relative(q, s, s)], [self._places(q)]
        if self.mask_padding and any(pad):
            more_q.append(q.new_ones(*q.shape[:-1], 1))
            more_k.append(self._padding(queries, height, width))
        wide = sum(part.shape[-1] for part in more_q)
        answers = F.scaled_dot_product_attention(
            torch.cat((q, *more_q), -1).flatten(2, 3),
            torch.cat((k, *(part.expand(*k.shape[:-1], -1) for part in more_k)), -1).flatten(2, 3),
            F.pad(v, (0, wide)).flatten(2, 3),  # fused kernels want one width
            scale=1.0,
        )[..., :c]
        return self._merged(answers, queries.shape, s, s)[:, :height, :width]

    def _relative(self, q: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """``Q_i . Rh[y_i - y_j + s - 1]`` of queries ``(N, H, y, x, c)`` for every row ``y_j``, and for columns."""
        (y, x), dtype = q.shape[2:4], q.dtype
        by_row = torch.einsum("nhyxc,yjc->nhyxj", q, self.rel_pos_h[self.rows[:y, :rows]].to(dtype))
        return by_row, torch.einsum("nhyxc,xjc->nhyxj", q, self.rel_pos_w[self.rows[:x, :columns]].to(dtype))

    def _windows(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """``(B, h, w, D)`` to ``(N, H, y, x, c)``."""
        split = tokens.unflatten(3, (self.heads, -1)).unflatten(2, (-1, width)).unflatten(1, (-1, height))
        return split.permute(0, 1, 3, 5, 2, 4, 6).flatten(0, 2)

    def _merged(self, answers: Tensor, shape: Sequence[int], height: int, width: int) -> Tensor:
        """``(N, H, y * x, c)`` to tokens of a shape ``(B, h, w, D)``."""
        windows = answers.unflatten(2, (height, width)).unflatten(0, (-1, shape[1] // height, shape[2] // width))
        return windows.permute(0, 1, 4, 2, 5, 3, 6).reshape(shape)

    def _places(self, like: Tensor) -> Tensor:
        """The row of each place of a window one-hot, then its column: ``(s, s, 2 s)``."""
        s = self.window
        one_hot = torch.eye(s, dtype=like.dtype, device=like.device)
        return torch.cat((one_hot[:, None].expand(s, s, s), one_hot[None].expand(s, s, s)), -1)

    def _padding(self, padded: Tensor, height: int, width: int) -> Tensor:
        """What the logits of padded places get, 0 for the others: ``(N, 1, s, s, 1)``."""
        mask = padded.new_zeros(*padded.shape[:3], 1)
        mask[:, height:] = _MASKED
        mask[:, :, width:] = _MASKED
        s = self.window
        windows = mask.unflatten(2, (-1, s)).unflatten(1, (-1, s)).transpose(2, 3)
        return windows.flatten(0, 2)[:, None]


def _spans(side: int, window: int) -> list[_Span]:
    """Whole windows along a side, and the one that its end cuts."""
    whole, rest = side - side % window, side % window
    return [(count, size) for count, size in ((whole, window), (rest, rest)) if count]


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
