"""The vision transformer of the MAE family: timm's, with an encoder that computes the visible patches only.

Parameter names are timm's, which are those of MAE's released encoders. Legend of shapes: B images, N patches of a grid,
K visible ones, T class tokens (0 or 1), D channels, p side of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer, checkpoint_seq
from torch import Tensor, nn

from vireo.backbones.masking import gather_tokens
from vireo.backbones.positions import Positions, position_table
from vireo.errors import InputError

Readout = Literal["none", "mean", "cls"]
QkvBias = Literal["qkv", "qv", "none"]


class QVLinear(nn.Linear):
    """The projection to queries, keys and values whose keys have no bias: that third stays zero and gets no gradient.

    A bias on the keys moves all logits of a row alike, so the softmax does not see it; BEiT leaves it out. One fused
    bias vector keeps the layout of timm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., 3 D')``."""
        q, k, v = self.bias.chunk(3)
        return F.linear(x, self.weight, torch.cat((q, torch.zeros_like(k), v)))


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
        **options: further arguments of timm's class, e.g. ``drop_path_rate``, ``dynamic_img_size``.

    Raises:
        InputError: an unknown option, or images that are not divided by the patch size.
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
        for name, value, known in (
            ("readout", readout, ("none", "mean", "cls")),
            ("positions", positions, ("sinusoid", "sincos_2d", "learned")),
            ("qkv_bias", qkv_bias, ("qkv", "qv", "none")),
        ):
            if value not in known:
                raise InputError(f"unknown {name} {value!r}", "MaskedViT", f"use one of {', '.join(known)}")
        sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if any(side % patch_size for side in sides):
            remedy = f"use multiples of {patch_size}, or another patch_size"
            raise InputError(f"an image of {sides} is not divided by patches of {patch_size}", "img_size", remedy)
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
        return self.patch_embed.grid_size

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
        """Change image or patch size: learned positions are interpolated, fixed ones computed anew."""
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
        (rows, columns), (height, width) = self.grid_size, self.patch_embed.img_size
        if images.shape[-2:] != (height, width):
            given = f"{images.shape[-2]}x{images.shape[-1]}"
            raise InputError(f"images of {given} for a network of {height}x{width}", "images", "resize or crop them")
        patches = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # (B, C, rows, p, columns, p)
        positions = self.pos_embed
        assert positions is not None
        prefix = self.num_prefix_tokens
        if ids_keep is None:
            patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
            placed = positions[:, prefix:]
        else:
            batch = torch.arange(len(images), device=images.device)[:, None]
            patches = patches[batch, :, ids_keep // columns, :, ids_keep % columns]  # (B, K, C, p, p)
            placed = gather_tokens(positions[:, prefix:].expand(len(images), -1, -1), ids_keep)
        proj = self.patch_embed.proj
        tokens = F.linear(patches.flatten(2), proj.weight.flatten(1), proj.bias) + placed
        if self.cls_token is None:
            return tokens
        first = (self.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        return torch.cat((first.to(tokens.dtype), tokens), 1)

    def forward_visible(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Encode the visible patches and normalise.

        Args:
            images: ``(B, C, H, W)``.
            ids_keep: int64 ``(B, K)``; None for all patches.

        Returns:
            ``(B, T + K, D)`` in the order of ``ids_keep``.
        """
        tokens = self.embed_visible(images, ids_keep)
        tokens = checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)
        return self.norm(tokens)

    def resized(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``state`` with its position table made to fit this network: interpolated if learned, else this network's own.

        The fixed tables of some checkpoints are not stored; they are filled in.
        """
        fitting = dict(state)
        assert self.pos_embed is not None
        if self.positions != "learned":
            fitting["pos_embed"] = self.pos_embed.detach()
        elif (table := fitting.get("pos_embed")) is not None and table.shape[1] != self.pos_embed.shape[1]:
            fitting["pos_embed"] = resample_abs_pos_embed(
                table, new_size=list(self.grid_size), num_prefix_tokens=self.num_prefix_tokens
            )
        return fitting
