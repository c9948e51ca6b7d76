"""Classifiers: plain vision transformers, and those with a distillation token (section 3.5 of the notes).

Legend of shapes: B images, N patches, D channels, C classes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.models.vision_transformer import checkpoint_seq
from torch import Tensor, nn

from vireo.backbones import MaskedViT
from vireo.engine import Pretrained
from vireo.errors import InputError

ClassifierReadout = Literal["cls", "mean"]
READOUTS = ("cls", "mean")


class Classifier(MaskedViT, Pretrained):
    """A vision transformer that classifies, with the names of MAE's fine-tuned checkpoints.

    Positions are trained. :class:`~vireo.backbones.MaskedViT` says more of the arguments.

    Args:
        img_size: side of the images in pixels, or (height, width).
        patch_size: of a patch.
        in_chans: channels of the images.
        embed_dim, depth, num_heads: of the transformer.
        num_classes: C; 0 for features alone.
        readout: ``cls`` classifies by the class token, ``mean`` by the average of the patches (teachers).
        **options: further arguments of timm's class, e.g. ``drop_path_rate``.

    Raises:
        InputError: an unknown readout or option, or sizes that do not fit each other.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        *,
        num_classes: int = 1000,
        readout: ClassifierReadout = "cls",
        **options: Any,
    ) -> None:
        if readout not in READOUTS:
            raise InputError(f"unknown readout {readout!r}", type(self).__name__, f"use one of {', '.join(READOUTS)}")
        super().__init__(
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            depth,
            num_heads,
            readout=readout,
            num_classes=num_classes,
            **{"class_token": True, "positions": "learned", "qkv_bias": "qkv", **options},
        )


class DistilledVisionTransformer(Classifier):
    """A classifier with a distillation token at the end of its sequence, which has no position.

    (DeiT's stands behind the class token and has one: the two do not share weights.) In training it answers with the
    logits of both tokens, else with their mean. What a downstream network asks for, ``forward_features`` and
    ``forward_intermediates``, is without that token.

    The arguments are those of :class:`Classifier`, without ``readout``, which is the class token.

    Attributes:
        dist_token: ``(1, 1, D)``.
        head_dist: its classifier.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        *,
        num_classes: int = 1000,
        **options: Any,
    ) -> None:
        if "readout" in options:
            raise InputError("readout is the class token", type(self).__name__, "leave it out, or use Classifier")
        super().__init__(
            img_size, patch_size, in_chans, embed_dim, depth, num_heads, num_classes=num_classes, **options
        )
        self.dist_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        self.head_dist = nn.Linear(self.embed_dim, self.num_classes) if self.num_classes else nn.Identity()
        self._init_distillation()

    def _init_distillation(self) -> None:
        nn.init.trunc_normal_(self.dist_token, std=0.02)
        if isinstance(self.head_dist, nn.Linear):
            nn.init.trunc_normal_(self.head_dist.weight, std=0.02)
            nn.init.zeros_(self.head_dist.bias)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """timm's initialisation, and that of the distillation token, normal with deviation 0.02."""
        super().init_weights(mode, needs_reset=needs_reset)
        if hasattr(self, "dist_token"):
            self._init_distillation()

    def _pos_embed(self, x: Tensor) -> Tensor:
        placed: Tensor = super()._pos_embed(x)
        return torch.cat((placed, self.dist_token.expand(len(placed), -1, -1).to(placed.dtype)), 1)

    def forward_tokens(self, images: Tensor) -> Tensor:
        """All tokens of images ``(B, 3, H, W)``, normalised: ``(B, 1 + N + 1, D)``, the distillation token last."""
        tokens = self._pos_embed(self.patch_embed(images))
        tokens = checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images to ``(B, 1 + N, D)``: class token and patches, normalised."""
        if attn_mask is not None or is_causal:
            raise InputError("masked attention is not supported", "forward_features", "leave out the mask")
        return self.forward_tokens(x)[:, :-1]

    def forward_intermediates(  # type: ignore[override]  # less than timm's: no masks, no dictionaries
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """timm's interface: the patches behind some blocks; ``return_prefix_tokens`` adds the class token."""
        every: Any = super().forward_intermediates(x, indices, True, norm, stop_early, "NLC")
        final, found = every
        grid = self.patch_embed.dynamic_feat_size(x.shape[-2:])
        kept: list[Any] = []
        for patches, prefix in found:
            tokens = patches[:, :-1]
            if output_fmt == "NCHW":
                tokens = tokens.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
            kept.append((tokens, prefix) if return_prefix_tokens else tokens)
        return kept if intermediates_only else (final[:, :-1], kept)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Any:
        """Images ``(B, 3, H, W)`` to logits.

        Returns:
            In training twice ``(B, C)``, of the class and the distillation token; in evaluation their mean. Without
            classes the class token ``(B, D)``.
        """
        if attn_mask is not None or is_causal or not self.num_classes:
            return self.forward_head(self.forward_features(x, attn_mask, is_causal))
        tokens = self.forward_tokens(x)
        of_class = self.head(self.head_drop(tokens[:, 0]))
        of_teacher = self.head_dist(self.head_drop(tokens[:, -1]))
        return (of_class, of_teacher) if self.training else (of_class + of_teacher) / 2

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Fresh heads for other classes; 0 for none."""
        super().reset_classifier(num_classes, global_pool)
        self.head_dist = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head_dist.to(self.dist_token.device)
