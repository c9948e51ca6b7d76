"""The backbone of ViTDet: a plain transformer with windows and relative positions, and its simple feature pyramid.

"Exploring Plain Vision Transformer Backbones for Object Detection", Li et al., ECCV 2022; section 3.6 of the notes.
Legend of shapes: B images (or windows), H x W tokens, N = H W, h heads, d channels of a head, D = h d.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, PatchEmbed, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vireo.backbones.vit import SimpleFeaturePyramid
from vireo.errors import InputError

WINDOW = 14  # tokens
NORM_EPS = 1e-6
_MOST_WITH_BIAS = 1024  # tokens up to which a bias of every pair is cheaper than longer queries and keys


class RelativeAttention(nn.Module):
    """Self-attention over a grid with decomposed relative positions.

    The logit of a pair is ``q k / sqrt(d)`` plus the products of the query, not scaled, with a vector for the
    difference in rows and one for that in columns, shared by the heads and zero at the start.

    Args:
        dim, num_heads: D and h.
        side: of the grid for which the vectors are stored, ``2 side - 1`` of either kind; for another length they are
            interpolated linearly.
    """

    def __init__(self, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, D)`` to the same shape."""
        height, width = x.shape[1:3]
        q, k, v = self.qkv(x.flatten(1, 2)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        rows, columns = relative_vectors(self.rel_pos_h, height), relative_vectors(self.rel_pos_w, width)
        attended = relative_attention(q, k, v, rows, columns)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2).unflatten(1, (height, width)))
        return projected


def relative_vectors(table: Tensor, length: int) -> Tensor:
    """The vector of each pair of query and key of a line of tokens: ``(2 L - 1, d)`` to ``(length, length, d)``."""
    if len(table) != 2 * length - 1:
        table = F.interpolate(table.t()[None], size=2 * length - 1, mode="linear", align_corners=False)[0].t()
    steps = torch.arange(length, device=table.device)
    return table[steps[:, None] - steps[None, :] + length - 1]


def relative_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention with decomposed relative positions, by a fused kernel.

    Up to 1,024 tokens their share of the logits is a bias of every pair. For more, which would take N^2 numbers a head,
    queries are made longer by their products with the vectors, and keys by the one-hot code of their row and column:
    the product of the two then has that share.

    Args:
        q, k, v: ``(B, h, N, d)`` of all tokens of a grid in row-major order.
        rows: ``(H, H, d)`` for query and key, see :func:`relative_vectors`.
        columns: ``(W, W, d)``.

    Returns:
        ``(B, h, N, d)``.
    """
    height, width = len(rows), len(columns)
    on_grid = q.unflatten(2, (height, width))
    of_rows = torch.einsum("bhrcd,rkd->bhrck", on_grid, rows)
    of_columns = torch.einsum("bhrcd,ckd->bhrck", on_grid, columns)
    if height * width <= _MOST_WITH_BIAS:
        bias = (of_rows[..., :, None] + of_columns[..., None, :]).flatten(4).flatten(2, 3)
        return F.scaled_dot_product_attention(q, k, v, bias)
    channels = q.shape[-1]
    scale = channels**-0.5  # by which the kernel multiplies what must not be scaled
    longer_q = torch.cat((q, of_rows.flatten(2, 3) / scale, of_columns.flatten(2, 3) / scale), -1)
    eye_h, eye_w = (torch.eye(length, dtype=k.dtype, device=k.device) for length in (height, width))
    codes = torch.cat((eye_h.repeat_interleave(width, 0), eye_w.repeat(height, 1)), 1)
    longer_k = torch.cat((k, codes.expand(*k.shape[:2], -1, -1)), -1)
    padded_v = F.pad(v, (0, height + width))  # fused kernels want values as wide as keys
    return F.scaled_dot_product_attention(longer_q, longer_k, padded_v, scale=scale)[..., :channels]


class ViTDetBlock(nn.Module):
    """Pre-norm transformer block whose attention is over windows, or over the whole map.

    Args:
        dim, num_heads: of the tokens.
        side: see :class:`RelativeAttention`.
        window: side of the windows in tokens; 0 for none.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop_path: probability that a sample skips a branch in training.
    """

    def __init__(
        self, dim: int, num_heads: int, side: int, window: int = 0, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = RelativeAttention(dim, num_heads, window or side)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, D)`` to the same shape."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        mixed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return mixed

    def _attend(self, x: Tensor) -> Tensor:
        if not self.window:
            attended: Tensor = self.attn(x)
            return attended
        height, width = x.shape[1:3]
        windows = windows_of(x, self.window)
        return merged_windows(self.attn(windows), (height, width))


def windows_of(x: Tensor, side: int) -> Tensor:
    """Map ``(B, H, W, D)`` to windows ``(B n, side, side, D)``, row by row; zeros fill up its right and lower edge.

    These zeros take part in the attention, as in the authors' network.
    """
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    cut = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (B, rows, side, columns, side, D)
    windows: Tensor = cut.transpose(2, 3).flatten(0, 2)
    return windows


def merged_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`windows_of` for a map of this height and width."""
    side = windows.shape[1]
    rows, columns = (-(-length // side) for length in size)
    cut = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)  # (B, rows, side, columns, side, D)
    merged: Tensor = cut.flatten(3, 4).flatten(1, 2)[:, : size[0], : size[1]]
    return merged


class ViTDet(nn.Module):
    """A plain transformer as detectors use it: no class token, no norm at the end, mostly attention in windows.

    Its parameters have timm's names, and detectron2's where timm has none.

    Args:
        img_size: side of the (padded) images in pixels, for which global relative positions are stored.
        patch_size: p.
        embed_dim, depth, num_heads: of the transformer.
        window: side of the windows in tokens.
        global_blocks: those that attend to the whole map, from 0; None: the last of every quarter (2, 5, 8 and 11 of
            12).
        drop_path_rate: of the last block, rising from 0 in a line.
        pretrain_size: side of the images of the pre-training, for which positions are stored; they are interpolated to
            the map (bicubic). The row of the pre-training's class token is kept, as in released detectors, not used.
        grad_checkpointing: recompute the blocks in the backward pass.

    Raises:
        InputError: sizes that do not divide each other, or a global block that is not there.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        *,
        window: int = WINDOW,
        global_blocks: Collection[int] | None = None,
        drop_path_rate: float = 0.0,
        pretrain_size: int = 224,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        for name, size in (("img_size", img_size), ("pretrain_size", pretrain_size)):
            if size < 1 or size % patch_size:
                what = f"images of {size} pixels are not divided by patches of {patch_size}"
                raise InputError(what, name, "use a multiple of the patch size")
        if embed_dim % num_heads or embed_dim % 4:
            what = f"{embed_dim} channels are not divided by {num_heads} heads and by 4"
            raise InputError(what, "embed_dim", "use another number")
        chosen = default_global_blocks(depth) if global_blocks is None else set(global_blocks)
        if absent := sorted(chosen - set(range(depth))):
            raise InputError(f"there is no block {absent[0]}", "global_blocks", f"count from 0 to {depth - 1}")
        self.img_size, self.embed_dim, self.grad_checkpointing = img_size, embed_dim, grad_checkpointing
        side, pretrain_side = img_size // patch_size, pretrain_size // patch_size
        self.patch_embed = PatchEmbed(None, patch_size, 3, embed_dim, flatten=False, strict_img_size=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + pretrain_side**2, embed_dim))
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            ViTDetBlock(embed_dim, num_heads, side, 0 if i in chosen else window, drop_path=rate)
            for i, rate in enumerate(rates)
        )
        self.apply(_init_linear)
        trunc_normal_(self.pos_embed, std=0.02)

    @property
    def stride(self) -> int:
        """p."""
        size: int = self.patch_embed.patch_size[0]
        return size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the stored positions."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        return side, side

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``(B, 3, H p, W p)`` to the map ``(B, D, H, W)``.

        Raises:
            InputError: sides that patches do not divide.
        """
        if any(side % self.stride for side in images.shape[-2:]):
            given = f"{images.shape[-2]}x{images.shape[-1]}"
            what = f"images of {given} are not divided by patches of {self.stride}"
            raise InputError(what, "images", "pad them")
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        x = x + self._positions(x.shape[1], x.shape[2])
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x.permute(0, 3, 1, 2).contiguous()

    def _positions(self, height: int, width: int) -> Tensor:
        """``(1, H, W, D)``."""
        table = self.pos_embed[:, 1:].unflatten(1, self.grid_size)
        if (height, width) == self.grid_size:
            return table
        image = table.permute(0, 3, 1, 2)
        resized = F.interpolate(image, size=(height, width), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)


def default_global_blocks(depth: int) -> set[int]:
    """The last block of every quarter, from 0; of fewer than four blocks the last."""
    return {depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)} - {-1}


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class ViTDetPyramid(nn.Module):
    """Transformer and simple feature pyramid as torchvision's detectors take them.

    Args:
        body: the transformer.
        channels: C of every map.

    Attributes:
        out_channels: C.
        strides: of the maps, finest first: 4 to 64 for patches of 16 pixels.
    """

    def __init__(self, body: ViTDet, channels: int = 256) -> None:
        super().__init__()
        self.body = body
        self.pyramid = SimpleFeaturePyramid(body.embed_dim, channels)
        self.out_channels = channels
        self.strides = tuple(body.stride * 2**level // 4 for level in range(5))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, 3, H, W)`` to maps ``(B, C, H / s, W / s)`` named ``0`` .. ``3`` and ``pool``, finest first."""
        maps = self.pyramid(self.body(images))
        names = [*map(str, range(len(maps))), "pool"]
        return dict(zip(names, [*maps, F.max_pool2d(maps[-1], 1, stride=2)]))
