"""The vision transformer of the MAE family: timm's, with an encoder that computes the visible patches only.

Parameter names are timm's, which are those of MAE's released encoders. Legend of shapes: B images, N patches of a grid,
K visible ones, T class tokens (0 or 1), D channels, p side of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer, checkpoint_seq
from torch import Tensor, nn

from vireo.backbones.masking import gather_tokens
from vireo.backbones.patches import gather_patches
from vireo.backbones.positions import Positions, position_table, require_fixed_table
from vireo.errors import InputError

Readout = Literal["none", "mean", "cls"]
QkvBias = Literal["qkv", "qv", "none"]

# Options of timm's class that the arguments here stand for, or that visible-token encoding does not have.
_REFUSED = {
    *("global_pool", "fc_norm", "final_norm", "pos_embed", "no_embed_class", "reg_tokens", "pre_norm"),
    *("patch_drop_rate", "embed_layer", "embed_norm_layer", "dynamic_img_pad"),
}


class QVLinear(nn.Linear):
    """The projection to queries, keys and values whose keys have no bias: that third stays zero and gets no gradient.

    A bias on the keys moves all logits of a row alike, so the softmax does not see it; BEiT leaves it out. One fused
    bias vector keeps the layout of timm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., 3 D')``."""
        q, k, v = self.bias.chunk(3)
        return F.linear(x, self.weight, torch.cat((q, torch.zeros_like(k), v)))


def require_choice(name: str, value: str, known: tuple[str, ...], where: str) -> None:
    """Check an option.

    Raises:
        InputError: ``value`` is not among the ``known``.
    """
    if value not in known:
        raise InputError(f"unknown {name} {value!r}", where, f"use one of {', '.join(known)}")


def require_heads(embed_dim: int, num_heads: int, where: str) -> None:
    """Check that the heads share the channels.

    Raises:
        InputError: they do not divide them.
    """
    if num_heads < 1 or embed_dim % num_heads:
        raise InputError(f"{embed_dim} channels are not divided by {num_heads} heads", where, "use another number")


def without_key_bias(blocks: nn.Module) -> None:
    """Let every attention of timm's ``blocks`` use :class:`QVLinear`, in place; names and values stay."""
    for module in blocks.modules():
        if isinstance(qkv := getattr(module, "qkv", None), nn.Linear):
            qkv.__class__ = QVLinear


class MaskedViT(VisionTransformer):
    """Vision transformer with visible-token encoding.

    Everything of timm's ``VisionTransformer`` works: ``forward``, ``forward_intermediates``, gradient checkpointing,
    layer-decay groups, ``features_only``.

    Args:
        img_size: side of the images in pixels, or (height, width).
        patch_size: p.
        in_chans: channels of the images.
        embed_dim, depth, num_heads: of the transformer; MLPs are ``mlp_ratio`` times as wide.
        readout: ``none`` normalises all tokens (pre-training, features), ``mean`` averages the patch tokens and then
            normalises (``fc_norm``), ``cls`` normalises and takes the class token. The last two end in ``head``.
        num_classes: of the head; 0 for none.
        class_token: whether there is one; default: with readout ``cls`` only.
        positions: fixed 1-D ``sinusoid`` over the token index, fixed ``sincos_2d`` of MAE, or ``learned``.
        qkv_bias: ``qkv`` (timm, MAE), ``qv`` (BEiT: no bias on the keys) or ``none``.
        init_values: layer scale at the start; None for no layer scale.
        **options: further arguments of timm's class, e.g. ``drop_path_rate``; with ``dynamic_img_size`` its forward
            passes take images of any size and interpolate the position table, fixed ones too.

    Raises:
        InputError: an unknown or unsupported option, or sizes that do not divide each other.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        *,
        readout: Readout = "none",
        num_classes: int = 0,
        class_token: bool | None = None,
        positions: Positions = "sinusoid",
        qkv_bias: QkvBias = "qv",
        init_values: float | None = None,
        **options: Any,
    ) -> None:
        where = type(self).__name__
        require_choice("readout", readout, ("none", "mean", "cls"), where)
        require_choice("positions", positions, ("sinusoid", "sincos_2d", "learned"), where)
        require_choice("qkv_bias", qkv_bias, ("qkv", "qv", "none"), where)
        require_heads(embed_dim, num_heads, where)
        if refused := sorted(_REFUSED & options.keys()):
            remedy = "use readout, class_token and positions, or timm's VisionTransformer"
            raise InputError(f"unsupported options {', '.join(refused)}", where, remedy)
        if readout == "cls" and class_token is False:
            raise InputError("readout cls needs a class token", where, "leave class_token out, or use readout mean")
        _require_grid(img_size, patch_size)
        pools: dict[str, Any] = {"none": "", "mean": "avg", "cls": "token"}
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes if readout != "none" else 0,
            global_pool=pools[readout],
            fc_norm=readout == "mean",
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias != "none",
            init_values=init_values,
            class_token=readout == "cls" if class_token is None else class_token,
            norm_layer=options.pop("norm_layer", None) or partial(nn.LayerNorm, eps=1e-6),
            **options,
        )
        self.positions = positions
        if qkv_bias == "qv":
            without_key_bias(self.blocks)
        if positions != "learned":
            self._set_fixed_positions()

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.patch_embed.grid_size
        return rows, columns

    def _set_fixed_positions(self) -> None:
        """A fixed table is stored with the weights, as by MAE, but not trained."""
        assert self.pos_embed is not None
        table = position_table(self.positions, self.grid_size, self.embed_dim, self.num_prefix_tokens)
        self.pos_embed = nn.Parameter(table.to(self.pos_embed), requires_grad=False)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """timm's initialisation; a fixed position table is not drawn."""
        super().init_weights(mode, needs_reset=needs_reset)
        if getattr(self, "positions", "learned") != "learned":
            self._set_fixed_positions()

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Change image or patch size: learned positions are interpolated, fixed ones computed anew.

        Raises:
            InputError: patches that do not divide the images.
        """
        _require_grid(img_size or self.patch_embed.img_size, patch_size or self.patch_embed.patch_size)
        super().set_input_size(img_size, patch_size)
        if self.positions != "learned":
            self._set_fixed_positions()

    def embed_visible(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embedded patches with their positions, after the class token if there is one; only those asked for.

        Args:
            images: ``(B, C, H, W)`` of the model's size.
            ids_keep: int64 ``(B, K)``, patches in row-major order; None for all in their order.

        Returns:
            ``(B, T + K, D)``.

        Raises:
            InputError: images of another size.
        """
        (height, width) = self.patch_embed.img_size
        if images.shape[-2:] != (height, width):
            given = f"{images.shape[-2]}x{images.shape[-1]}"
            raise InputError(f"images of {given} for a network of {height}x{width}", "images", "resize or crop them")
        return self.embed_patches(gather_patches(images, self.grid_size, ids_keep), ids_keep)

    def embed_patches(self, patches: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """The same from the pixels of the patches, which two networks may share.

        Args:
            patches: ``(B, K, C * p * p)`` as of :func:`~vireo.backbones.gather_patches`.
            ids_keep: which they are; None for all in their order.
        """
        positions = self.pos_embed
        assert positions is not None
        placed = positions[:, self.num_prefix_tokens :]
        if ids_keep is not None:
            placed = gather_tokens(placed.expand(len(patches), -1, -1), ids_keep)
        proj = self.patch_embed.proj
        tokens = F.linear(patches, proj.weight.flatten(1), proj.bias) + placed
        if self.cls_token is not None:
            first = (self.cls_token + positions[:, :1]).expand(len(patches), -1, -1)
            tokens = torch.cat((first.to(tokens.dtype), tokens), 1)
        dropped: Tensor = self.pos_drop(tokens)
        return dropped

    def forward_blocks(self, tokens: Tensor) -> Tensor:
        """Embedded tokens ``(B, T + K, D)`` through all blocks, before the final norm."""
        encoded: Tensor = checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)
        return encoded

    def forward_visible(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Encode the visible patches and normalise (with readout ``mean``, whose norm follows the mean, not yet).

        Args:
            images: ``(B, C, H, W)``.
            ids_keep: int64 ``(B, K)``; None for all patches.

        Returns:
            ``(B, T + K, D)`` in the order of ``ids_keep``.
        """
        normed: Tensor = self.norm(self.forward_blocks(self.embed_visible(images, ids_keep)))
        return normed

    def resized(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``state`` with its position table made to fit this network.

        A learned table is interpolated; one without a row for this network's class token, or the reverse, is left out.
        A fixed table is replaced by this network's own, which also fills in what some checkpoints do not store.

        Raises:
            InputError: a table that is no square grid, or stored positions that are not this network's fixed ones.
        """
        fitting = dict(state)
        assert self.pos_embed is not None
        own, prefix, given = self.pos_embed.detach(), self.num_prefix_tokens, int("cls_token" in state)
        table = fitting.get("pos_embed")
        if self.positions != "learned":
            if table is not None:
                require_fixed_table(table[:, given:], self.positions, self.grid_size, own.shape[2], "pos_embed")
            fitting["pos_embed"] = own
        elif table is not None and table.shape[1] != own.shape[1]:
            side = math.isqrt(table.shape[1] - given)
            if given != prefix:
                del fitting["pos_embed"]
            elif given + side * side != table.shape[1]:
                what = f"{table.shape[1] - given} stored positions are no square grid"
                raise InputError(what, "pos_embed", f"use the image size of its training, not {self.grid_size} patches")
            else:
                fitting["pos_embed"] = resample_abs_pos_embed(table, list(self.grid_size), num_prefix_tokens=prefix)
        return fitting


def _require_grid(img_size: int | tuple[int, int], patch_size: int | tuple[int, int]) -> None:
    """Raise InputError unless the patches divide the images."""
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    patch = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    if any(p < 1 or side < 1 or side % p for side, p in zip(sides, patch)):
        what = f"an image of {sides[0]}x{sides[1]} is not divided by patches of {patch[0]}x{patch[1]}"
        raise InputError(what, "img_size", "use multiples of the patch size, or another patch_size")
