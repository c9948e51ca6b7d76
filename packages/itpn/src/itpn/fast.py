"""Fast-iTPN, the backbone: linear layers inside units of 16 x 16 pixels, then attention between them (section 3.9).

Parameter names and shapes are the authors', whose early layers are convolutions; nothing there crosses a unit, so here
they are matrix products. Until stage 3 the cells of a unit stand in the order in which the merges read them, quarter by
quarter: a merge is then a view, not a copy. Legend of shapes: B images, N units of the grid, C channels of stage 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vireo.errors import InputError

from .backbone import PyramidInputs, UnitBackbone
from .fast_blocks import CellBlock, CellMerge, FastRelPos, PatchCells, RelPosBias, TokenBlock
from .positions import resample_positions
from .relative import Grid


class FastITPN(UnitBackbone):
    """Hierarchical vision transformer with three stages at strides p/4, p/2 and p, the released Fast-iTPN.

    Images of any size are taken if p divides their sides; the position table is resized to their grid, bicubic, as the
    authors do once when they load a checkpoint for another size.

    Args:
        img_size: side of the images in pixels, or (height, width): the grid of the position table.
        patch_size: p, side of a unit, a multiple of 4.
        in_chans: channels of the images.
        embed_dim: C; stages 1 and 2 have a quarter and half of it.
        depths: blocks of the stages.
        num_heads: of stage 3.
        mlp_ratio, early_mlp_ratio: hidden channels of the MLPs of stage 3, and of stages 1 and 2.
        num_classes: of the classifier; 0 for none.
        init_values: layer scale of stage 3 at the start, 0.1 in all released models; None for none.
        drop_path_rate: of the last block; linear over the blocks.
        norm_eps: of all norms.
        mean_pooling: classify by the norm of the mean, else by the mean of normalised tokens.
        subln: norms inside the MLPs, and separate projections in attention. All released models have both.
        swiglu: gated MLPs in stage 3, as in all released models.
        patch_norm: a norm behind the patch embedding. The authors' runs along the columns of the map, not its channels,
            and so only where the image is C pixels wide (with p = 16); kept for their checkpoints alone.
        cls_token: a token that takes part in stage 3 and is left out of the mean.
        rel_pos: relative position bias: ``bias`` a table per block, ``shared`` one of all, ``decoupled`` one of all for
            rows and one for columns; needs the class token and images of ``img_size``. None in all released models.
        attn_fp32: attention logits in float32 whatever the precision, as the authors compute them; slower.

    Attributes:
        dims, strides: channels and strides of the stages.
        grid_size: rows and columns of units.

    Raises:
        InputError: sizes that do not divide each other, or relative positions without a class token.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 512,
        depths: tuple[int, int, int] = (3, 3, 24),
        num_heads: int = 8,
        *,
        mlp_ratio: float = 3.0,
        early_mlp_ratio: float = 3.0,
        num_classes: int = 0,
        init_values: float | None = 0.1,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        mean_pooling: bool = True,
        subln: bool = True,
        swiglu: bool = True,
        patch_norm: bool = False,
        cls_token: bool = False,
        rel_pos: FastRelPos | None = None,
        attn_fp32: bool = False,
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, depths, num_heads, norm_eps)
        _require_relative(rel_pos, cls_token)
        self.mean_pooling, self.rel_pos = mean_pooling, rel_pos
        self.num_prefix_tokens = int(cls_token)

        self.patch_embed = PatchCells(patch_size, in_chans, self.dims[0], norm_eps if patch_norm else None)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if cls_token else None
        tokens = self.grid_size[0] * self.grid_size[1] + self.num_prefix_tokens
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim))
        self.rel_pos_bias = None if rel_pos is None else RelPosBias(self.grid_size, num_heads, rel_pos)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        paths = [DropPath(rate) if rate else nn.Identity() for rate in rates]
        blocks: list[nn.Module] = []
        for stage, (dim, depth) in enumerate(zip(self.dims[:2], depths)):
            for path in paths[sum(depths[:stage]) :][:depth]:
                blocks.append(CellBlock(dim, round(dim * early_mlp_ratio), path, norm_eps=norm_eps, subln=subln))
            blocks.append(CellMerge(dim, norm_eps))
        for path in paths[depths[0] + depths[1] :]:
            hidden, table = round(embed_dim * mlp_ratio), self.grid_size if rel_pos == "bias" else None
            options: dict[str, Any] = {"init_values": init_values, "norm_eps": norm_eps, "attn_fp32": attn_fp32}
            options |= {"subln": subln, "swiglu": swiglu, "table_grid": table}
            blocks.append(TokenBlock(embed_dim, num_heads, hidden, path, **options))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Identity() if mean_pooling else nn.LayerNorm(embed_dim, eps=norm_eps)
        self.finish(num_classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    head_scale = 0.01

    # -- stages ----------------------------------------------------------------------------------------------------

    def forward_early(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patch embedding, stages 1 and 2 and their merges; everything stays inside units.

        Args:
            images: ``(B, in_chans, H, W)``.

        Returns:
            ``f4 (B, N, 16, C / 4)`` and ``f8 (B, N, 4, C / 2)``, the cells of a unit quarter by quarter (see
            :func:`cells_to_units`), and the input of stage 3 before its positions, ``(B, N, C)``.

        Raises:
            InputError: units do not divide the images.
        """
        first, second, _ = self.depths
        x = self.patch_embed(images, self.grid_of(tuple(images.shape[-2:])))
        for block in self.blocks[:first]:
            x = self._run(block, x)
        f4, x = x, self.blocks[first](x)
        for block in self.blocks[first + 1 : first + 1 + second]:
            x = self._run(block, x)
        return f4, x, self.blocks[first + 1 + second](x)[:, :, 0]

    def positions(self, grid: Grid) -> Tensor:
        """Absolute positions of stage 3, ``(1, N, C)``, with the class token's in front where there is one."""
        if grid == self.grid_size:
            return self.pos_embed
        front, table = self.pos_embed[:, : self.num_prefix_tokens], self.pos_embed[:, self.num_prefix_tokens :]
        return torch.cat((front, resample_positions(table, self.grid_size, grid, "size")), 1)

    def forward_late(self, x: Tensor, grid: Grid) -> Tensor:
        """Positions, stage 3 and the final norm, if any.

        Args:
            x: ``(B, N, C)`` in row-major order.
            grid: rows and columns of units.

        Returns:
            ``(B, N, C)``, with the class token in front where there is one.

        Raises:
            InputError: relative positions of another grid.
        """
        if self.rel_pos is not None and grid != self.grid_size:
            what = f"relative positions of {self.grid_size} units for images of {grid}"
            raise InputError(what, "images", "build the model with their img_size")
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1).to(x.dtype), x), 1)
        x = x + self.positions(grid).to(x.dtype)
        relative = None if self.rel_pos_bias is None else self.rel_pos_bias()
        for block in self.blocks[-self.depths[2] :]:
            x = self._run(block, x, relative)
        normed: Tensor = self.norm(x)
        return normed

    # -- whole passes ----------------------------------------------------------------------------------------------

    def forward_units(self, images: Tensor) -> PyramidInputs:
        """The three stages as :class:`~itpn.PyramidNeck` takes them, without the class token."""
        grid = self.grid_of(tuple(images.shape[-2:]))
        f4, f8, x = self.forward_early(images)
        x16 = self.forward_late(x, grid)[:, self.num_prefix_tokens :]
        return PyramidInputs(cells_to_units(f4), cells_to_units(f8), x16, grid)

    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens of stage 3, ``(B, N, C)`` in row-major order, behind the class token where there is one."""
        grid = self.grid_of(tuple(images.shape[-2:]))
        return self.forward_late(self.forward_early(images)[2], grid)

    def forward_stages(self, images: Tensor, late: bool) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Tokens, and units ``(B, N, s, s, c)`` of the stages; without ``late`` stage 3 is left out."""
        f4, f8, tokens = self.forward_early(images)
        if late:
            tokens = self.forward_late(tokens, self.grid_of(tuple(images.shape[-2:])))
        cells = (f4, f8, tokens[:, self.num_prefix_tokens if late else 0 :, None])
        return tokens, (cells_to_units(cells[0]), cells_to_units(cells[1]), cells_to_units(cells[2]))

    @property
    def normalizes_mean(self) -> bool:
        """Whether a classifier has a norm behind the mean of the tokens."""
        return self.mean_pooling

    # -- what timm asks a model --------------------------------------------------------------------------------------

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, beside vectors: positions, class token and relative tables."""
        kept = ("pos_embed", "cls_token", "relative_position_bias_table", "bias_for_high", "bias_for_width")
        return {name for name, _ in self.named_parameters() if name.endswith(kept)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of parameter groups by depth."""
        return {
            "stem": r"^patch_embed|pos_embed|cls_token|rel_pos_bias",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm|^fc_norm", (99999,))],
        }


def cells_to_units(cells: Tensor) -> Tensor:
    """Cells of units quarter by quarter, ``(B, N, s s, c)``, as inner grids ``(B, N, s, s, c)``; s is 1, 2 or 4."""
    side = math.isqrt(cells.shape[2])
    if side == 4:
        cells = cells.unflatten(2, (2, 2, 2, 2)).transpose(3, 4).flatten(2, 5)
    return cells.unflatten(2, (side, side))


def _require_relative(rel_pos: str | None, cls_token: bool) -> None:
    """Raise InputError unless the options go together."""
    if rel_pos not in (None, "bias", "shared", "decoupled"):
        raise InputError(f"unknown relative positions {rel_pos!r}", "rel_pos", "use null, bias, shared or decoupled")
    if rel_pos is not None and not cls_token:
        raise InputError("relative positions need the class token", "rel_pos", "set cls_token=true, or rel_pos=null")
