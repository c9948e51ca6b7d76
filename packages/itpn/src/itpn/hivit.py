"""HiViT, the backbone of iTPN: MLPs inside units of 16 x 16 pixels, then attention between the units (section 3.1).

Nothing crosses units before stage 3, so units that are masked need not be computed at all. Parameter names are the
authors'. Legend of shapes: B images, N units of the grid, K visible ones, C channels of stage 3, p side of a unit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError

from .attention import AttentionBlock, MlpBlock, PatchMerge, RelPos
from .backbone import INNER, PyramidInputs, UnitBackbone
from .positions import PosResample, resample_positions
from .relative import Grid, places_of


class PatchEmbed(nn.Module):
    """Holds the kernel of the patch embedding, p / 4 pixels wide, and its norm."""

    def __init__(self, patch_size: int, in_chans: int, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size // INNER, stride=patch_size // INNER)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Units of pixels ``(B, K, 3, p, p)`` to ``(B, K, 4, 4, c)``: the convolution as one matrix product."""
        cells = pixels.unflatten(4, (INNER, -1)).unflatten(3, (INNER, -1)).permute(0, 1, 3, 5, 2, 4, 6)
        embedded: Tensor = self.norm(F.linear(cells.flatten(4), self.proj.weight.flatten(1), self.proj.bias))
        return embedded


class HiViT(UnitBackbone):
    """Hierarchical vision transformer with three stages at strides p/4, p/2 and p.

    Images of any size are taken if p divides their sides; position table and relative tables are resized.

    Args:
        img_size: side of the images in pixels, or (height, width): the grid of the tables.
        patch_size: p, side of a unit, a multiple of 4.
        in_chans: channels of the images.
        embed_dim: C; stages 1 and 2 have a quarter and half of it.
        depths: blocks of the stages.
        num_heads: of stage 3.
        mlp_ratio, early_mlp_ratio: hidden channels of the MLPs of stage 3, and of stages 1 and 2.
        num_classes: of the classifier; 0 for none.
        rel_pos: relative position bias of stage 3: None, ``bias`` or ``decomposed`` (section 3.6).
        init_values: layer scale at the start, 0.1 in the models with a CLIP teacher; None for none.
        drop_path_rate: of the last block; linear over the blocks.
        norm_eps: of all norms; the released detectors and segmenters have 1e-5.
        pos_size: image size that the absolute position table is made for; None for ``img_size``.
        pos_resample: how the position table is resampled, see :func:`~itpn.positions.resample_positions`. ``official``
            moves it by a fraction of a unit wherever units are dropped or the grid is another one.

    Attributes:
        dims, strides: channels and strides of the stages.
        grid_size: rows and columns of units.

    Raises:
        InputError: sizes that do not divide each other.
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
        mlp_ratio: float = 4.0,
        early_mlp_ratio: float = 3.0,
        num_classes: int = 0,
        rel_pos: RelPos | None = None,
        init_values: float | None = None,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        pos_size: int | tuple[int, int] | None = None,
        pos_resample: PosResample = "official",
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, depths, num_heads, norm_eps)
        if rel_pos not in (None, "bias", "decomposed"):
            raise InputError(f"unknown relative positions {rel_pos!r}", "rel_pos", "use null, bias or decomposed")
        if pos_resample not in ("official", "size"):
            raise InputError(f"unknown resampling {pos_resample!r}", "pos_resample", "use official or size")
        self.rel_pos, self.pos_resample = rel_pos, pos_resample
        self.pos_grid = self.grid_size if pos_size is None else self.grid_of(pos_size)

        self.patch_embed = PatchEmbed(patch_size, in_chans, self.dims[0], norm_eps)
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, self.pos_grid[0] * self.pos_grid[1], embed_dim))
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        common: dict[str, Any] = {"init_values": init_values, "norm_eps": norm_eps}
        blocks: list[nn.Module] = []
        for stage, (dim, depth) in enumerate(zip(self.dims[:2], depths)):
            first = sum(depths[:stage])
            blocks += [MlpBlock(dim, early_mlp_ratio, drop_path=rates[first + i], **common) for i in range(depth)]
            blocks.append(PatchMerge(dim, norm_eps))
        blocks += [
            AttentionBlock(
                embed_dim, num_heads, mlp_ratio, drop_path=rate, rel_pos=rel_pos, grid=self.grid_size, **common
            )
            for rate in rates[depths[0] + depths[1] :]
        ]
        self.blocks = nn.ModuleList(blocks)
        self.finish(num_classes)
        nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    # -- stages ----------------------------------------------------------------------------------------------------

    def embed_units(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed the units of images, only those asked for: ``(B, K, 4, 4, C / 4)``.

        Args:
            images: ``(B, in_chans, H, W)``.
            ids_keep: int64 ``(B, K)``, units in row-major order; None for all in their order.

        Raises:
            InputError: units do not divide the images.
        """
        rows, columns = self.grid_of(tuple(images.shape[-2:]))
        pixels = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # (B, 3, R, p, C, p)
        if ids_keep is None:
            pixels = pixels.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        else:
            batch = torch.arange(len(images), device=images.device)[:, None]
            pixels = pixels[batch, :, ids_keep // columns, :, ids_keep % columns]  # (B, K, 3, p, p)
        embedded: Tensor = self.patch_embed(pixels)
        return embedded

    def forward_early(self, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stages 1 and 2 and their merges.

        Args:
            units: ``(B, K, 4, 4, C / 4)``.

        Returns:
            ``f4 (B, K, 4, 4, C / 4)``, ``f8 (B, K, 2, 2, C / 2)`` and the input of stage 3 before its positions,
            ``(B, K, C)``.
        """
        first, second, _ = self.depths
        for block in self.blocks[:first]:
            units = self._run(block, units)
        f4, x = units, self.blocks[first](units)
        for block in self.blocks[first + 1 : first + 1 + second]:
            x = self._run(block, x)
        return f4, x, self.blocks[first + 1 + second](x)[:, :, 0, 0]

    def positions(self, grid: Grid, ids_keep: Tensor | None = None) -> Tensor:
        """Absolute positions of stage 3: ``(1, N, C)``, or ``(B, K, C)`` of the visible units."""
        table: Tensor = self.absolute_pos_embed
        count = grid[0] * grid[1]
        visible = count if ids_keep is None else ids_keep.shape[1]
        # the authors resample unless as many tokens are present as the table has, on a square grid (section 3.1)
        whole = grid == self.pos_grid and visible == count and (grid[0] == grid[1] or self.pos_resample == "size")
        if not whole:
            table = resample_positions(table, self.pos_grid, grid, self.pos_resample)
        if ids_keep is None:
            return table
        return table.expand(len(ids_keep), -1, -1).gather(1, ids_keep[:, :, None].expand(-1, -1, table.shape[2]))

    def forward_late(
        self, x: Tensor, grid: Grid, ids_keep: Tensor | None = None, tap: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Positions and stage 3.

        Args:
            x: ``(B, K, C)``.
            grid: rows and columns of all units of the images.
            ids_keep: the visible units, int64 ``(B, K)``; None if all are there in their order.
            tap: index of a block of stage 3 whose output is wanted too.

        Returns:
            Output of the stage ``(B, K, C)``, and that of block ``tap``, or None.
        """
        x = x + self.positions(grid, ids_keep).to(x.dtype)
        places = places_of(grid, ids_keep, x.device) if self.rel_pos is not None else None
        tapped = None
        for index, block in enumerate(self.blocks[-self.depths[2] :]):
            x = self._run(block, x, places)
            if index == tap:
                tapped = x
        return x, tapped

    # -- whole passes ----------------------------------------------------------------------------------------------

    def forward_units(self, images: Tensor, ids_keep: Tensor | None = None) -> PyramidInputs:
        """The three stages of the visible units.

        Args:
            images: ``(B, in_chans, H, W)``.
            ids_keep: int64 ``(B, K)``; None for all units.
        """
        grid = self.grid_of(tuple(images.shape[-2:]))
        f4, f8, x = self.forward_early(self.embed_units(images, ids_keep))
        return PyramidInputs(f4, f8, self.forward_late(x, grid, ids_keep)[0], grid)

    def forward_features(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Tokens of stage 3, ``(B, K, C)``, not normalised: all in row-major order, or those of ``ids_keep``."""
        return self.forward_units(images, ids_keep).x16

    def forward_stages(self, images: Tensor, late: bool) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Tokens, and units ``(B, N, s, s, c)`` of the stages; without ``late`` stage 3 is left out."""
        f4, f8, tokens = self.forward_early(self.embed_units(images))
        if late:
            tokens = self.forward_late(tokens, self.grid_of(tuple(images.shape[-2:])))[0]
        return tokens, (f4, f8, tokens[:, :, None, None])

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, beside vectors: positions and relative tables."""
        endings = ("absolute_pos_embed", "relative_position_bias_table", "rel_pos_h", "rel_pos_w")
        return {name for name, _ in self.named_parameters() if name.endswith(endings)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of parameter groups by depth."""
        return {
            "stem": r"^patch_embed|absolute_pos_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^fc_norm", (99999,))],
        }
