"""Blocks of HiViT: MLP blocks inside units, attention blocks between them, merging of a unit's inner grid.

Every linear layer works on channels-last tensors ``(..., c)`` as they are; nothing is permuted but in a merge.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from .relative import Grid, Places, bias_of_table, decomposed_bias, table_rows

RelPos = Literal["bias", "decomposed"]
HEAD_LENGTH = 14  # side of the grid that decomposed tables are made for
_CACHED = 1 << 22  # elements of the largest bias kept between forward passes


class Attention(nn.Module):
    """Multi-head self-attention with an optional relative position bias (sections 3.1 and 3.6).

    Args:
        dim: channels.
        num_heads: they share the channels.
        rel_pos: ``bias``, a table per head added to the logits; ``decomposed``, ViTDet's; None for neither.
        grid: rows and columns that the ``bias`` table is made for.

    Attributes:
        fused: use ``scaled_dot_product_attention``; otherwise the explicit form, for comparison and export.
    """

    def __init__(self, dim: int, num_heads: int, rel_pos: RelPos | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        self.num_heads, self.rel_pos, self.grid = num_heads, rel_pos, grid
        self.fused = True
        if rel_pos == "bias":
            assert grid is not None, "a bias table needs a grid"
            self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows(grid), num_heads))
        elif rel_pos == "decomposed":
            self.rel_pos_h = nn.Parameter(torch.empty(2 * HEAD_LENGTH - 1, dim // num_heads))
            self.rel_pos_w = nn.Parameter(torch.empty(2 * HEAD_LENGTH - 1, dim // num_heads))
            nn.init.trunc_normal_(self.rel_pos_h, std=0.02)
            nn.init.trunc_normal_(self.rel_pos_w, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self._kept: tuple[object, Tensor] | None = None  # the bias of the last grid seen without gradients

    def forward(self, x: Tensor, places: Places | None = None) -> Tensor:
        """Tokens ``(B, N, D)`` to ``(B, N, D)``; ``places`` are needed with a relative position bias."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self._bias(q, places)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        else:
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            if bias is not None:
                logits = logits + bias
            mixed = logits.float().softmax(-1).to(v.dtype) @ v
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def train(self, mode: bool = True) -> Attention:
        """Training and evaluation mode; either forgets the bias that evaluation keeps."""
        self._kept = None
        super().train(mode)
        return self

    def _bias(self, queries: Tensor, places: Places | None) -> Tensor | None:
        if self.rel_pos is None:
            return None
        assert places is not None, "relative positions need the places of the tokens"
        if self.rel_pos == "decomposed":
            return decomposed_bias(queries, self.rel_pos_h, self.rel_pos_w, places)
        assert self.grid is not None
        table = self.relative_position_bias_table
        small = self.num_heads * (places.grid[0] * places.grid[1]) ** 2 <= _CACHED
        fixed = not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        if not (places.all_units and small and fixed) or table.is_inference():
            return bias_of_table(table, self.grid, places)
        version = (places.grid, table.data_ptr(), table._version, table.device, table.dtype)
        if self._kept is None or self._kept[0] != version:
            self._kept = version, bias_of_table(table, self.grid, places)
        return self._kept[1]


class MlpBlock(nn.Module):
    """``x + g MLP(LN(x))`` on tokens of any shape ``(B, ..., c)`` (section 3.1).

    Args:
        dim: channels.
        mlp_ratio: of the hidden layer's channels to them.
        drop_path: probability of leaving out the branch of a sample in training.
        init_values: layer scale at the start; None for none.
        norm_eps: of the norm.
    """

    def __init__(
        self, dim: int, mlp_ratio: float, *, drop_path: float = 0.0, init_values: float | None = None, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.gamma_2 = None if init_values is None else nn.Parameter(torch.full((dim,), init_values))

    def _scaled(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        dropped: Tensor = self.drop_path(x if gamma is None else gamma * x)
        return dropped

    def forward(self, x: Tensor) -> Tensor:
        """``(B, ..., c)`` to the same shape."""
        return x + self._scaled(self.mlp(self.norm2(x)), self.gamma_2)


class AttentionBlock(MlpBlock):
    """``x + g1 Attention(LN(x))``, then an MLP block (section 3.1).

    Args:
        dim, mlp_ratio, drop_path, init_values, norm_eps: see :class:`MlpBlock`.
        num_heads, rel_pos, grid: see :class:`Attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        drop_path: float = 0.0,
        init_values: float | None = None,
        norm_eps: float = 1e-6,
        rel_pos: RelPos | None = None,
        grid: Grid | None = None,
    ) -> None:
        super().__init__(dim, mlp_ratio, drop_path=drop_path, init_values=init_values, norm_eps=norm_eps)
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, rel_pos, grid)
        self.gamma_1 = None if init_values is None else nn.Parameter(torch.full((dim,), init_values))

    def forward(self, x: Tensor, places: Places | None = None) -> Tensor:
        """Tokens ``(B, N, D)`` to ``(B, N, D)``."""
        x = x + self._scaled(self.attn(self.norm1(x), places), self.gamma_1)
        return super().forward(x)


class PatchMerge(nn.Module):
    """Four neighbours of a unit's inner grid to one token of twice the channels (section 3.1).

    Args:
        dim: channels before the merge.
        norm_eps: of the norm.
    """

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=norm_eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, s, s, c)`` to ``(B, N, s / 2, s / 2, 2 c)``; the column of a neighbour counts before its row."""
        quads = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 2, 4, 5, 3, 6).flatten(4)
        merged: Tensor = self.reduction(self.norm(quads))
        return merged


def set_fused(model: nn.Module, fused: bool) -> None:
    """Let every attention of ``model`` use PyTorch's fused form, or the explicit one."""
    for module in model.modules():
        if hasattr(module, "fused"):
            module.fused = fused  # type: ignore[assignment]


@torch.no_grad()
def init_layers(model: nn.Module) -> None:
    """Linear weights normal with deviation 0.02 (cut at 2), their biases 0, norms 1 and 0 (section 3.1)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
