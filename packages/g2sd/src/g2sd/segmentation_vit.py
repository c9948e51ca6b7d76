"""The vision transformer of segmenters: BEiT's, with the class token and four maps (section 3.7 of the notes).

Parameter names are the authors'. Legend of shapes: B images, R x C patches, N of them, D channels, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, PatchEmbed, gen_relative_position_index
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vireo.backbones import GlobalBatchNorm2d
from vireo.backbones.masked_vit import require_heads
from vireo.backbones.positions import position_table
from vireo.errors import InputError

from .mae import init_weights

EPS = 1e-6
FRESH = ("gamma_", "relative_position_bias_table", "fpn1.", "fpn2.")  # what no pre-training holds


class BiasedAttention(nn.Module):
    """Self-attention with a learned bias for each difference of places, and three more of the class token.

    Args:
        dim, num_heads: D and h.
        grid: rows and columns of patches. All blocks of a network share the index of their pairs, which is no
            parameter and not stored.
    """

    def __init__(self, dim: int, num_heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = grid
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        # class to patch, patch to class and class to itself come last
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1) + 3, num_heads))

    def bias(self, index: Tensor) -> Tensor:
        """What is added to the logits, ``(1, h, 1 + N, 1 + N)``, of the pairs' rows in the table ``(1 + N, 1 + N)``."""
        columns = self.relative_position_bias_table.t()  # a gather along rows needs no transposing
        return columns.index_select(1, index.flatten()).unflatten(1, index.shape)[None]

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Tokens ``(B, 1 + N, D)``."""
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(index).to(q.dtype))
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))
        return out


class BiasedBlock(nn.Module):
    """Attention and MLP behind norms, each scaled channel by channel and left out of some images in training.

    Args:
        dim, num_heads, grid: as of :class:`BiasedAttention`.
        drop_path: probability of leaving a branch out.
    """

    def __init__(self, dim: int, num_heads: int, grid: tuple[int, int], drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.attn = BiasedAttention(dim, num_heads, grid)
        self.mlp = Mlp(dim, 4 * dim)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Tokens ``(B, 1 + N, D)``."""
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x), index))
        out: Tensor = x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))
        return out


class SegmentationViT(nn.Module):
    """Images of one size to maps at a quarter, a half, once and twice the stride of the patches.

    Positions are learned, from MAE's sines and cosines on; bias tables start at zero and the blocks' scales at one, so
    that the network starts as the encoder that it is loaded with.

    Args:
        img_size: side of the images in pixels, or (height, width); positions and bias tables are for this size alone.
        patch_size: p.
        embed_dim, depth, num_heads: of the transformer.
        drop_path_rate: of the last block; grows from 0 in a straight line.
        out_blocks: the four blocks whose outputs become the maps, counted from 0; None for a third, a half, two thirds
            and all of the depth: 3, 5, 7 and 11 of 12.
        grad_checkpointing: compute the blocks again in the backward pass and save memory.

    Attributes:
        channels, strides: of the maps, finest first.
        grid_size: rows and columns of patches.

    Raises:
        InputError: sizes that do not fit each other, or no such blocks.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 512,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        drop_path_rate: float = 0.0,
        out_blocks: Sequence[int] | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_heads(embed_dim, num_heads, "model")
        sides = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        if any(side % (2 * patch_size) for side in sides):
            what = f"images of {sides[0]}x{sides[1]} are no multiple of {2 * patch_size}, the largest stride"
            raise InputError(what, "model.img_size", "use a multiple of twice the patch size")
        self.out_blocks = tuple(default_blocks(depth) if out_blocks is None else out_blocks)
        if len(self.out_blocks) != 4 or not all(0 <= i < depth for i in self.out_blocks):
            what = f"maps behind blocks {self.out_blocks} of {depth}"
            raise InputError(what, "out_blocks", "give four block numbers, counted from 0")
        self.grad_checkpointing = grad_checkpointing
        self.patch_embed = PatchEmbed(sides, patch_size, 3, embed_dim)
        self.grid_size: tuple[int, int] = (sides[0] // patch_size, sides[1] // patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(position_table("sincos_2d", self.grid_size, embed_dim, 1))
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(BiasedBlock(embed_dim, num_heads, self.grid_size, rate) for rate in rates)
        index = gen_relative_position_index(self.grid_size, class_token=True)
        self.register_buffer("relative_position_index", index, persistent=False)
        init_weights(self)

        def up() -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2)

        self.fpn1 = nn.Sequential(up(), GlobalBatchNorm2d(embed_dim), nn.GELU(), up())
        self.fpn2 = nn.Sequential(up())
        self.fpn3, self.fpn4 = nn.Identity(), nn.MaxPool2d(2)
        self.channels = (embed_dim,) * 4
        self.strides = (patch_size // 4, patch_size // 2, patch_size, 2 * patch_size)

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Outputs of :attr:`out_blocks` for normalised images ``(B, 3, H, W)``, each ``(B, 1 + N, D)``; no norm behind.

        Raises:
            InputError: images of another size.
        """
        height, width = self.patch_embed.img_size
        if images.shape[-2:] != (height, width):
            given = f"{images.shape[-2]}x{images.shape[-1]}"
            remedy = "crop them, or use windows (vireo.segmentation.sliding_window_logits)"
            raise InputError(f"images of {given} for a network of {height}x{width}", "images", remedy)
        x = torch.cat((self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)), 1) + self.pos_embed
        outputs: list[Tensor] = []
        again = self.grad_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            inputs = x, self.relative_position_index
            x = checkpoint(block, *inputs, use_reentrant=False) if again else block(*inputs)
            outputs.append(x)
        return [outputs[i] for i in self.out_blocks]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images ``(B, 3, H, W)`` of the network's size to four maps ``(B, D, H / s, W / s)``.

        Raises:
            InputError: see :meth:`tokens`.
        """
        grids = [x[:, 1:].transpose(1, 2).unflatten(2, self.grid_size).contiguous() for x in self.tokens(images)]
        return [branch(grid) for branch, grid in zip((self.fpn1, self.fpn2, self.fpn3, self.fpn4), grids)]


def default_blocks(depth: int) -> tuple[int, int, int, int]:
    """The blocks behind a third, a half, two thirds and all of the depth, counted from 0."""
    first, half, second = (max(part - 1, 0) for part in (depth // 3, depth // 2, 2 * depth // 3))
    return first, half, second, depth - 1
