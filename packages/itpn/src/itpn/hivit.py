"""HiViT, the backbone of iTPN: MLPs inside units of 16 x 16 pixels, then attention between the units (section 3.1).

Nothing crosses units before stage 3, so units that are masked need not be computed at all. Parameter names are the
authors'. Legend of shapes: B images, N units of the grid, K visible ones, C channels of stage 3, p side of a unit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vireo.errors import InputError

from .attention import AttentionBlock, MlpBlock, PatchMerge, RelPos, init_layers
from .neck import units_to_map
from .positions import PosResample, resample_positions
from .relative import Grid, Places, places_of

INNER = 4  # side of a unit's inner grid in stage 1


class PyramidInputs(NamedTuple):
    """What a pyramid is built from.

    Attributes:
        f4: ``(B, K, 4, 4, C / 4)``, the output of stage 1.
        f8: ``(B, K, 2, 2, C / 2)``, of stage 2.
        x16: ``(B, K, C)``, of stage 3.
        grid: rows and columns of all units.
    """

    f4: Tensor
    f8: Tensor
    x16: Tensor
    grid: Grid


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


class HiViT(nn.Module):
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
        super().__init__()
        _require_sizes(patch_size, embed_dim, num_heads, rel_pos, pos_resample)
        self.patch_size, self.in_chans, self.embed_dim, self.norm_eps = patch_size, in_chans, embed_dim, norm_eps
        self.depths, self.pos_resample, self.num_heads = tuple(depths), pos_resample, num_heads
        self.dims = (embed_dim // 4, embed_dim // 2, embed_dim)
        self.strides = (patch_size // 4, patch_size // 2, patch_size)
        self.grid_size = self.grid_of(_pair(img_size))
        self.pos_grid = self.grid_of(_pair(pos_size)) if pos_size is not None else self.grid_size
        self.rel_pos = rel_pos
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, embed_dim, embed_dim
        self.num_prefix_tokens, self.grad_checkpointing = 0, False

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
        self.fc_norm: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Identity()
        names = (f"blocks.{depths[0] - 1}", f"blocks.{depths[0] + depths[1]}", f"blocks.{len(blocks) - 1}")
        self.feature_info = [
            {"num_chs": dim, "reduction": stride, "module": name}
            for dim, stride, name in zip(self.dims, self.strides, names)
        ]
        init_layers(self)
        nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        if num_classes:
            self.reset_classifier(num_classes)

    def grid_of(self, size: tuple[int, int]) -> Grid:
        """Rows and columns of units of an image of ``size`` (height, width).

        Raises:
            InputError: units do not divide it.
        """
        height, width = size
        if min(size) < self.patch_size or height % self.patch_size or width % self.patch_size:
            what = f"an image of {height}x{width} is not divided by units of {self.patch_size}x{self.patch_size}"
            raise InputError(what, "images", f"resize or pad them to multiples of {self.patch_size}")
        return height // self.patch_size, width // self.patch_size

    # -- stages ----------------------------------------------------------------------------------------------------

    def embed_units(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed the units of images, only those asked for: ``(B, K, 4, 4, C / 4)``.

        Args:
            images: ``(B, in_chans, H, W)``.
            ids_keep: int64 ``(B, K)``, units in row-major order; None for all in their order.

        Raises:
            InputError: units do not divide the images.
        """
        rows, columns = self.grid_of((images.shape[-2], images.shape[-1]))
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

    def _run(self, block: nn.Module, x: Tensor, *places: Places | None) -> Tensor:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(block, x, *places, use_reentrant=False)
            return recomputed
        computed: Tensor = block(x, *places)
        return computed

    # -- whole passes ----------------------------------------------------------------------------------------------

    def forward_units(self, images: Tensor, ids_keep: Tensor | None = None) -> PyramidInputs:
        """The three stages of the visible units.

        Args:
            images: ``(B, in_chans, H, W)``.
            ids_keep: int64 ``(B, K)``; None for all units.
        """
        grid = self.grid_of((images.shape[-2], images.shape[-1]))
        f4, f8, x = self.forward_early(self.embed_units(images, ids_keep))
        return PyramidInputs(f4, f8, self.forward_late(x, grid, ids_keep)[0], grid)

    def forward_features(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Tokens of stage 3, ``(B, K, C)``, not normalised: all in row-major order, or those of ``ids_keep``."""
        return self.forward_units(images, ids_keep).x16

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens ``(B, N, C)`` to logits, or to pooled features where ``pre_logits``."""
        pooled: Tensor = self.fc_norm(x.mean(1))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``; without classes, to pooled features."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """timm's interface: maps ``(B, c, H / s, W / s)`` of the stages, finest first.

        Args:
            x: images.
            indices: which of the three, or how many of the last; None for all.
            norm: must be False: the stages have no norms.
            stop_early: leave out what the wanted maps do not need.
            output_fmt: must be ``NCHW``.
            intermediates_only: return the maps alone, else (tokens of the last stage, maps).

        Raises:
            InputError: another format, or units that do not divide the images.
        """
        if output_fmt != "NCHW" or norm:
            raise InputError("the maps are NCHW and not normalised", "forward_intermediates", "leave out the options")
        wanted, last = feature_take_indices(3, indices)
        grid = self.grid_of((x.shape[-2], x.shape[-1]))
        f4, f8, tokens = self.forward_early(self.embed_units(x))
        if last == 2 or not stop_early:
            tokens = self.forward_late(tokens, grid)[0]
        units = (f4, f8, tokens[:, :, None, None])
        maps = [units_to_map(units[index], grid) for index in wanted]
        return maps if intermediates_only else (tokens, maps)

    # -- what timm asks a model --------------------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier of ``num_classes``; 0 takes the last layer away.

        Raises:
            InputError: another pooling than the mean.
        """
        if global_pool not in (None, "avg"):
            raise InputError(
                f"unknown pooling {global_pool!r}", "global_pool", "use avg, or forward_features for tokens"
            )
        self.num_classes = num_classes
        if num_classes and isinstance(self.fc_norm, nn.Identity):
            self.fc_norm = nn.LayerNorm(self.embed_dim, eps=self.norm_eps)
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        init_layers(self.head)

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

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping what is inside them."""
        self.grad_checkpointing = enable


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _require_sizes(patch_size: int, dim: int, heads: int, rel_pos: str | None, pos_resample: str) -> None:
    """Raise InputError unless the sizes divide each other and the choices are known."""
    if patch_size < INNER or patch_size % INNER:
        raise InputError(f"units of {patch_size} pixels have no inner grid of 4x4", "patch_size", "use a multiple of 4")
    if dim % 4 or heads < 1 or dim % heads:
        remedy = "use a multiple of 4 that the heads divide"
        raise InputError(f"{dim} channels do not suit three stages and {heads} heads", "embed_dim", remedy)
    if rel_pos not in (None, "bias", "decomposed"):
        raise InputError(f"unknown relative positions {rel_pos!r}", "rel_pos", "use null, bias or decomposed")
    if pos_resample not in ("official", "size"):
        raise InputError(f"unknown resampling {pos_resample!r}", "pos_resample", "use official or size")
