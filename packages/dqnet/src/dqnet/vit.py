"""The global branch: a vision transformer whose last map does the querying (section 3.1 of the notes)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vireo.backbones import MaskedViT, gather_patches
from vireo.errors import InputError


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A table of learned positions with a class token, resized to another grid: bicubic, without antialiasing.

    Args:
        table: ``(1, 1 + n * n, D)``, the class token's row first; it stays as it is.
        grid: rows and columns.

    Returns:
        ``(1, 1 + rows * columns, D)``.

    Raises:
        InputError: a table that is no square grid behind one row.
    """
    places = table.shape[1] - 1
    side = round(places**0.5)
    if side * side != places or side < 1:
        what = f"{places} positions behind the class token are no square grid"
        raise InputError(what, "pos_embed", "use a checkpoint that was trained on square images and has a class token")
    if grid == (side, side):
        return table
    as_map = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    resized = F.interpolate(as_map, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], resized.flatten(2).transpose(1, 2)), 1)


class GlobalViT(MaskedViT):
    """Images of any size that patches divide, to one map: the last tokens, normalised, without the class token.

    Parameter names are timm's and MAE's. Positions are learned; the table is resized to each image's grid.

    Args:
        img_size: side of the square images of training, in pixels, which decides the size of the position table.
        **options: of :class:`vireo.backbones.MaskedViT`: ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``,
            ``drop_path_rate`` (linear from 0 in the first block).

    Raises:
        InputError: sizes that do not divide.
    """

    def __init__(self, img_size: int = 384, **options: Any) -> None:
        super().__init__(img_size, readout="none", class_token=True, positions="learned", qkv_bias="qkv", **options)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.patch_embed.patch_size[0])

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of images ``(B, 3, H, W)``.

        Raises:
            InputError: patches do not divide them.
        """
        height, width = images.shape[-2:]
        side = self.patch_size
        if height % side or width % side:
            what = f"images of {height}x{width} pixels for patches of {side}"
            raise InputError(what, "images", f"resize or pad them to a multiple of {side}")
        return height // side, width // side

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override] # no masks of attention
        """Normalised images ``(B, 3, H, W)`` to the map ``(B, D, H / p, W / p)``.

        Raises:
            InputError: see :meth:`grid_of`.
        """
        grid = self.grid_of(images)
        assert self.pos_embed is not None
        assert self.cls_token is not None
        proj = self.patch_embed.proj
        patches = F.linear(gather_patches(images, grid), proj.weight.flatten(1), proj.bias)
        first = self.cls_token.expand(len(images), -1, -1).to(patches.dtype)
        tokens = torch.cat((first, patches), 1) + resize_positions(self.pos_embed, grid)
        encoded = self.norm(self.forward_blocks(tokens))[:, 1:]
        return encoded.transpose(1, 2).unflatten(2, grid)
