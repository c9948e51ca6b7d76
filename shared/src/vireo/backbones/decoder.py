"""The light decoder of masked pre-training: visible tokens and mask tokens in, a prediction for every patch out."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vireo.backbones.masked_vit import QkvBias, require_choice, require_heads, without_key_bias
from vireo.backbones.masking import TokenMask, gather_tokens
from vireo.backbones.positions import Positions, position_table


class TokenDecoder(nn.Module):
    """Transformer over all patches of a grid (He et al., Masked Autoencoders, section 3).

    Args:
        encoder_dim: channels of the encoded tokens.
        out_dim: values predicted for a patch; None for a decoder whose hidden states are all that is wanted: it has
            neither final norm nor head.
        grid: rows and columns of patches.
        embed_dim, depth, num_heads: of the decoder.
        prefix_tokens: class tokens that come first and take part, 0 or 1.
        positions: ``sinusoid`` or ``sincos_2d``.
        qkv_bias: see :class:`~vireo.backbones.MaskedViT`.
        embed_bias: whether the projection from encoder to decoder has a bias.
        init_values: layer scale; None for none.

    Raises:
        InputError: an unknown option, or heads that do not divide the channels.
    """

    def __init__(
        self,
        encoder_dim: int,
        out_dim: int | None,
        grid: tuple[int, int],
        embed_dim: int = 384,
        depth: int = 4,
        num_heads: int = 6,
        *,
        prefix_tokens: int = 0,
        positions: Positions = "sinusoid",
        qkv_bias: QkvBias = "qv",
        embed_bias: bool = False,
        init_values: float | None = None,
    ) -> None:
        super().__init__()
        require_choice("qkv_bias", qkv_bias, ("qkv", "qv", "none"), "TokenDecoder")
        require_heads(embed_dim, num_heads, "TokenDecoder")
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.prefix_tokens, self.positions = prefix_tokens, positions
        self.embed = nn.Linear(encoder_dim, embed_dim, bias=embed_bias)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        table = position_table(positions, grid, embed_dim, prefix_tokens)
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.blocks = nn.Sequential(
            *(
                Block(embed_dim, num_heads, qkv_bias=qkv_bias != "none", init_values=init_values, norm_layer=norm)
                for _ in range(depth)
            )
        )
        # a norm and a linear layer, or None
        self.norm: Any = None if out_dim is None else norm(embed_dim)
        self.head: Any = None if out_dim is None else nn.Linear(embed_dim, out_dim)
        if qkv_bias == "qv":
            without_key_bias(self.blocks)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, mask: TokenMask | None = None, ids: Tensor | None = None) -> Tensor:
        """Predict patches from encoded tokens.

        Args:
            tokens: ``(B, T + K, encoder_dim)``, in the order of ``mask.ids_keep``.
            mask: where they stand; None if all patches are there in their order.
            ids: int64 ``(B, M)``, the patches to predict; None for all.

        Returns:
            ``(B, N, out_dim)`` in image order, or ``(B, M, out_dim)`` in the order of ``ids``.
        """
        assert self.norm is not None, "this decoder has no norm and no head"
        x = self.hidden(tokens, mask)[:, self.prefix_tokens :]
        if ids is not None:
            x = gather_tokens(x, ids)
        predicted: Tensor = self.head(self.norm(x))
        return predicted

    def hidden(self, tokens: Tensor, mask: TokenMask | None = None, num_blocks: int | None = None) -> Tensor:
        """The residual stream behind the blocks, of prefix tokens and all patches.

        Args:
            tokens, mask: as of :meth:`forward`.
            num_blocks: run only the first so many.

        Returns:
            ``(B, T + N, embed_dim)`` in image order, not normalised.
        """
        x = self.embed(tokens)
        prefix = self.prefix_tokens
        if mask is not None:
            removed = self.mask_token.to(x.dtype).expand(len(x), mask.ids_removed.shape[1], -1)
            patches = gather_tokens(torch.cat((x[:, prefix:], removed), 1), mask.ids_restore)
            x = torch.cat((x[:, :prefix], patches), 1) if prefix else patches
        x = x + self.pos_embed
        hidden: Tensor = self.blocks[:num_blocks](x)
        return hidden
