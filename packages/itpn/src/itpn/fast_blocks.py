"""Blocks of Fast-iTPN (section 3.9), under the authors' names and in their shapes.

What the authors write as convolutions of one cell or of disjoint squares is a matrix product on channels-last tensors
here. Legend of shapes: B images, N units of 16 x 16 pixels, L tokens of stage 3, c channels, h heads.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError

from .relative import Grid, places_of
from .relative import relative_index as index_of_places

FastRelPos = Literal["bias", "shared", "decoupled"]


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution by its parameters, applied to channels-last tensors ``(..., c)``."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(dim, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class PatchCells(nn.Module):
    """Patch embedding with kernels a quarter of a unit wide.

    Args:
        patch_size: side of a unit.
        in_chans: channels of the images.
        dim: channels of the embedding.
        norm_eps: of the authors' norm behind it, along the columns of the map; None for no norm.
    """

    def __init__(self, patch_size: int, in_chans: int, dim: int, norm_eps: float | None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size // 4, stride=patch_size // 4)
        self.norm = None if norm_eps is None else nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, images: Tensor, grid: Grid) -> Tensor:
        """``(B, in_chans, H, W)`` to the cells of units quarter by quarter, ``(B, N, 16, dim)``.

        Raises:
            InputError: there is a norm and it does not suit the width of the map.
        """
        if self.norm is None:
            return F.linear(_cells(images, grid), self.proj.weight.flatten(1), self.proj.bias)
        mapped = self.proj(images)
        if mapped.shape[3] != mapped.shape[1]:
            what = f"patch_norm of {mapped.shape[1]} channels runs along {mapped.shape[3]} columns"
            raise InputError(what, "images", "set patch_norm=false, or use images where the two are equal")
        return _cells(self.norm(mapped), grid)


def _cells(x: Tensor, grid: Grid) -> Tensor:
    """A map ``(B, c, R 4 k, C 4 k)`` as cells of units, quarter by quarter: ``(B, R C, 16, c k k)``."""
    split = x.unflatten(3, (grid[1], 2, 2, -1)).unflatten(2, (grid[0], 2, 2, -1))
    return split.permute(0, 2, 6, 3, 7, 4, 8, 1, 5, 9).flatten(7).flatten(3, 6).flatten(1, 2)


class CellMlp(nn.Module):
    """Two 1 x 1 convolutions with GELU, and with ``subln`` a norm between them."""

    def __init__(self, dim: int, hidden: int, *, norm_eps: float, subln: bool) -> None:
        super().__init__()
        self.fc1, self.fc2 = Pointwise(dim, hidden), Pointwise(hidden, dim)
        self.ffn_ln = nn.LayerNorm(hidden, eps=norm_eps) if subln else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(self.ffn_ln(F.gelu(self.fc1(x))))
        return mixed


class TokenMlp(CellMlp):
    """The same of linear layers."""

    def __init__(self, dim: int, hidden: int, *, norm_eps: float, subln: bool) -> None:
        super().__init__(dim, hidden, norm_eps=norm_eps, subln=subln)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)  # type: ignore[assignment]


class SwiGLU(nn.Module):
    """``w3(SiLU(w1 x) * w2 x)``, with ``subln`` a norm before ``w3``."""

    def __init__(self, dim: int, hidden: int, *, norm_eps: float, subln: bool) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.ffn_ln = nn.LayerNorm(hidden, eps=norm_eps) if subln else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))
        return gated


class CellBlock(nn.Module):
    """MLP block of stages 1 and 2: ``x + MLP(LN(x))`` on cells ``(B, N, s s, c)``."""

    def __init__(self, dim: int, hidden: int, drop_path: nn.Module, *, norm_eps: float, subln: bool) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = CellMlp(dim, hidden, norm_eps=norm_eps, subln=subln)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return added


class CellMerge(nn.Module):
    """Four neighbours to one cell of twice the channels: a norm, then a 2 x 2 convolution of stride 2."""

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.reduction = nn.Conv2d(dim, 2 * dim, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Cells in quarters ``(B, N, 4 m, c)`` to ``(B, N, m, 2 c)``."""
        quads = self.norm(x).unflatten(2, (-1, 4)).flatten(3)
        return F.linear(quads, self.reduction.weight.permute(0, 2, 3, 1).flatten(1), self.reduction.bias)


class FastAttention(nn.Module):
    """Multi-head self-attention whose keys have no bias.

    Args:
        dim: channels.
        num_heads: they share the channels.
        separate: projections of queries, keys and values are separate parameters.
        attn_fp32: logits and their softmax in float32 whatever the precision.
        table_grid: grid of an own relative position table; None for none.

    Attributes:
        fused: use ``scaled_dot_product_attention``, unless ``attn_fp32``; otherwise the explicit form.
    """

    def __init__(self, dim: int, num_heads: int, *, separate: bool, attn_fp32: bool, table_grid: Grid | None) -> None:
        super().__init__()
        self.num_heads, self.attn_fp32, self.fused = num_heads, attn_fp32, True
        if separate:
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        else:
            self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        if table_grid is not None:
            self.relative_position_bias_table = nn.Parameter(torch.zeros(_rows(table_grid), num_heads))
        self.own_table = table_grid is not None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, relative: Tensor | None = None) -> Tensor:
        """Tokens ``(B, L, D)`` to the same shape.

        Args:
            x: tokens.
            relative: added to the logits, ``(h, L, L)``; for an own table its row for each query and key, ``(L, L)``.
        """
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self._projected(x))
        bias = self.relative_position_bias_table[relative].permute(2, 0, 1) if self.own_table else relative
        if self.fused and not self.attn_fp32:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        else:
            with torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):
                logits = (q * q.shape[-1] ** -0.5).float() @ k.float().transpose(-2, -1)
                weights = (logits if bias is None else logits + bias.float()).softmax(-1).to(v.dtype)
            mixed = weights @ v
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if hasattr(self, "qkv"):
            bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
            q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, -1)
            return q, k, v
        q, v = (F.linear(x, p.weight, b) for p, b in ((self.q_proj, self.q_bias), (self.v_proj, self.v_bias)))
        return q, self.k_proj(x), v


class TokenBlock(nn.Module):
    """Block of stage 3: ``x + g1 Attention(LN(x))``, then ``x + g2 MLP(LN(x))``."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden: int,
        drop_path: nn.Module,
        *,
        init_values: float | None,
        norm_eps: float,
        subln: bool,
        swiglu: bool,
        attn_fp32: bool,
        table_grid: Grid | None,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=norm_eps), nn.LayerNorm(dim, eps=norm_eps)
        self.attn = FastAttention(dim, num_heads, separate=subln, attn_fp32=attn_fp32, table_grid=table_grid)
        self.mlp = (SwiGLU if swiglu else TokenMlp)(dim, hidden, norm_eps=norm_eps, subln=subln)
        self.drop_path = drop_path
        self.gamma_1 = None if init_values is None else nn.Parameter(torch.full((dim,), init_values))
        self.gamma_2 = None if init_values is None else nn.Parameter(torch.full((dim,), init_values))

    def forward(self, x: Tensor, relative: Tensor | None = None) -> Tensor:
        """Tokens ``(B, L, D)`` to the same shape; ``relative`` as :class:`FastAttention` takes it."""
        x = x + self._scaled(self.attn(self.norm1(x), relative), self.gamma_1)
        return x + self._scaled(self.mlp(self.norm2(x)), self.gamma_2)

    def _scaled(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        dropped: Tensor = self.drop_path(x if gamma is None else gamma * x)
        return dropped


class RelPosBias(nn.Module):
    """What the blocks of stage 3 add to their logits, or the rows that each of them takes from its own table."""

    def __init__(self, grid: Grid, num_heads: int, kind: FastRelPos) -> None:
        super().__init__()
        self.kind = kind
        self.relative_position_index: Tensor  # of queries and keys; (2, N + 1, N + 1) if decoupled
        if kind == "decoupled":
            self.relative_position_bias_for_high = nn.Parameter(torch.zeros(2 * grid[0] + 2, num_heads))
            self.relative_position_bias_for_width = nn.Parameter(torch.zeros(2 * grid[1] + 2, num_heads))
        elif kind == "shared":
            self.relative_position_bias_table = nn.Parameter(torch.zeros(_rows(grid), num_heads))
        index = torch.stack(decoupled_index(grid)) if kind == "decoupled" else relative_index(grid)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self) -> Tensor:
        """``(h, N + 1, N + 1)``; for tables of the blocks, int64 ``(N + 1, N + 1)``."""
        index = self.relative_position_index
        if self.kind == "bias":
            return index
        if self.kind == "shared":
            return self.relative_position_bias_table[index].permute(2, 0, 1)
        bias = self.relative_position_bias_for_high[index[0]] + self.relative_position_bias_for_width[index[1]]
        return bias.permute(2, 0, 1)


def _rows(grid: Grid) -> int:
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def relative_index(grid: Grid) -> Tensor:
    """Row of a table for each query and key, the class token first: int64 ``(N + 1, N + 1)``.

    The last three rows are for the class token to all, all to it, and it to itself.
    """
    return _with_class_token(index_of_places(places_of(grid)), _rows(grid) - 3)


def decoupled_index(grid: Grid) -> tuple[Tensor, Tensor]:
    """The same for a table of rows and one of columns; here the query is subtracted from the key."""
    _, rows, columns = places_of(grid)
    high, width = (x[None, :] - x[:, None] + side - 1 for x, side in zip((rows, columns), grid))
    return _with_class_token(high, 2 * grid[0] - 1), _with_class_token(width, 2 * grid[1] - 1)


def _with_class_token(index: Tensor, first: int) -> Tensor:
    index = F.pad(index, (1, 0, 1, 0))
    index[0, :], index[:, 0], index[0, 0] = first, first + 1, first + 2
    return index
