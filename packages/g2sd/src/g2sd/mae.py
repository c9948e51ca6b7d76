"""The masked autoencoder that teacher and student are (He et al., CVPR 2022; sections 3.1 and 3.2 of the notes).

Legend of shapes: B images, N patches of p x p pixels, K of them visible, D channels of the encoder, d of the decoder.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vireo.backbones import MaskedViT, TokenDecoder, TokenMask, gather_patches, patchify, pixel_loss, random_masking
from vireo.backbones.patches import patch_statistics, unpatchify
from vireo.engine import Pretrained
from vireo.errors import InputError

MASK_RATIO = 0.75


class EncoderOutput(NamedTuple):
    """What the encoder makes of the visible patches.

    Attributes:
        latent: normalised tokens ``(B, 1 + K, D)``, the class token first, in the order of ``mask.ids_keep``.
        prenorm: the same before the norm.
        mask: which patches they are.
    """

    latent: Tensor
    prenorm: Tensor
    mask: TokenMask


class MAEOutput(NamedTuple):
    """What a step of pixel pre-training computes.

    Attributes:
        loss: scalar to minimise.
        prediction: ``(B, N - K, p * p * 3)`` of the patches ``mask.ids_removed``.
        mask: which patches were visible.
    """

    loss: Tensor
    prediction: Tensor
    mask: TokenMask


class MaskedAutoencoder(nn.Module, Pretrained):
    """Transformer over the visible patches, and a light one over all that predicts the pixels of the others.

    Positions are fixed sines and cosines. Weights start as MAE's.

    Args:
        img_size: side of the images in pixels, or (height, width).
        patch_size: p.
        in_chans: channels of the images.
        embed_dim, depth, num_heads: of the encoder.
        decoder_dim, decoder_depth, decoder_heads: of the decoder.
        norm_pix: predict pixels normalised by their patch.

    Attributes:
        encoder: :class:`~vireo.backbones.MaskedViT`, with timm's names.
        decoder: :class:`~vireo.backbones.TokenDecoder`.

    Raises:
        InputError: sizes that do not fit each other.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        decoder_dim: int = 256,
        decoder_depth: int = 4,
        decoder_heads: int = 8,
        norm_pix: bool = True,
    ) -> None:
        super().__init__()
        self.norm_pix = norm_pix
        self.encoder = build_encoder(img_size, patch_size, in_chans, embed_dim, depth, num_heads)
        grid = self.encoder.grid_size
        self.decoder = build_decoder(
            embed_dim, in_chans * patch_size**2, grid, decoder_dim, decoder_depth, decoder_heads
        )
        init_weights(self)

    @property
    def num_patches(self) -> int:
        """N."""
        rows, columns = self.encoder.grid_size
        return rows * columns

    def mask(self, batch: int, noise: Tensor | None = None, mask_ratio: float = MASK_RATIO) -> TokenMask:
        """Which patches of ``batch`` images stay: see :func:`random_mask`."""
        return random_mask(self.encoder, batch, noise, mask_ratio)

    def forward_encoder(
        self, images: Tensor, noise: Tensor | None = None, mask_ratio: float = MASK_RATIO
    ) -> EncoderOutput:
        """Encode the visible patches.

        Args:
            images: normalised ``(B, 3, H, W)`` of the model's size.
            noise: ``(B, N)``; those of least noise stay. None draws it from torch's global generator of the device.
            mask_ratio: share of patches to remove, in [0, 1).

        Raises:
            InputError: images or noise of another size, or no such ratio.
        """
        mask = self.mask(len(images), None if noise is None else noise.to(images.device), mask_ratio)
        prenorm = self.encoder.forward_blocks(self.encoder.embed_visible(images, mask.ids_keep))
        return EncoderOutput(self.encoder.norm(prenorm), prenorm, mask)

    def forward_decoder(self, latent: Tensor, mask: TokenMask, num_blocks: int | None = None) -> Tensor:
        """The decoder's residual stream of all tokens.

        Args:
            latent, mask: of :meth:`forward_encoder`.
            num_blocks: run the first so many blocks, the target block counted from 1; None for all.

        Returns:
            ``(B, 1 + N, d)``, the class token first, patches in image order; not normalised.
        """
        return self.decoder.hidden(latent, mask, num_blocks)

    def forward(self, images: Tensor, noise: Tensor | None = None, mask_ratio: float = MASK_RATIO) -> MAEOutput:
        """Loss of pixel pre-training; arguments and errors as of :meth:`forward_encoder`."""
        latent, _, mask = self.forward_encoder(images, noise, mask_ratio)
        if mask.ids_removed.shape[1] == 0:
            raise InputError(
                "no patch is removed, so nothing is predicted", f"mask_ratio={mask_ratio}", "use e.g. 0.75"
            )
        prediction = self.decoder(latent, mask, mask.ids_removed)
        patches = patchify(images, self.patch_size, mask.ids_removed)
        return MAEOutput(pixel_loss(prediction, patches, self.norm_pix), prediction, mask)

    @property
    def patch_size(self) -> int:
        """p."""
        size: int = self.encoder.patch_embed.patch_size[0]
        return size

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, noise: Tensor | None = None, mask_ratio: float = MASK_RATIO
    ) -> dict[str, Tensor]:
        """What is seen and what is recovered, in the scale of ``images``; arguments as of :meth:`forward`.

        Returns:
            ``(B, 3, H, W)``: ``input`` (removed patches zero) and ``prediction`` (removed patches as predicted, with
            the mean and deviation of the true ones where the model predicts normalised pixels).
        """
        latent, _, mask = self.forward_encoder(images, noise, mask_ratio)
        prediction = self.decoder(latent, mask).float()
        patches = patchify(images.float(), self.patch_size)
        if self.norm_pix:
            mean, deviation = patch_statistics(patches)
            prediction = prediction * deviation + mean
        removed, grid = mask.mask[:, :, None], self.encoder.grid_size
        return {
            "input": unpatchify(patches.masked_fill(removed, 0), self.patch_size, grid),
            "prediction": unpatchify(torch.where(removed, prediction, patches), self.patch_size, grid),
        }


def build_encoder(
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    in_chans: int = 3,
    embed_dim: int = 384,
    depth: int = 12,
    num_heads: int = 6,
) -> MaskedViT:
    """An encoder of MAE: class token, fixed positions, biases on queries, keys and values."""
    return MaskedViT(
        img_size,
        patch_size,
        in_chans,
        embed_dim,
        depth,
        num_heads,
        class_token=True,
        positions="sincos_2d",
        qkv_bias="qkv",
    )


def build_decoder(
    encoder_dim: int, out_dim: int | None, grid: tuple[int, int], embed_dim: int, depth: int, num_heads: int
) -> TokenDecoder:
    """A decoder of MAE; without ``out_dim`` one for hidden states only."""
    return TokenDecoder(
        encoder_dim,
        out_dim,
        grid,
        embed_dim,
        depth,
        num_heads,
        prefix_tokens=1,
        positions="sincos_2d",
        qkv_bias="qkv",
        embed_bias=True,
    )


@torch.no_grad()
def init_weights(model: nn.Module) -> None:
    """MAE's fresh weights, in place: linear layers and the patch embedding, as a matrix, Xavier-uniform with zero
    biases, norms 1 and 0, class and mask token normal with deviation 0.02.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d) and name.endswith("patch_embed.proj"):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("cls_token", "mask_token"):
            nn.init.normal_(parameter, std=0.02)


def random_mask(
    encoder: MaskedViT, batch: int, noise: Tensor | None = None, mask_ratio: float = MASK_RATIO
) -> TokenMask:
    """Which patches of ``batch`` images an encoder sees.

    Args:
        encoder: of N patches.
        batch: number of images.
        noise: ``(B, N)``; those of least noise stay. None draws it from torch's global generator of the device.
        mask_ratio: share of patches to remove, in [0, 1).

    Raises:
        InputError: noise of another shape, or no such ratio.
    """
    rows, columns = encoder.grid_size
    if noise is None:
        noise = torch.rand(batch, rows * columns, device=encoder.patch_embed.proj.weight.device)
    if noise.shape != (batch, rows * columns):
        what = f"noise of shape {tuple(noise.shape)} for {batch} images of {rows * columns} patches"
        raise InputError(what, "noise", "give one number for each patch")
    return random_masking(noise, mask_ratio)


def visible_patches(encoder: MaskedViT, images: Tensor, mask: TokenMask) -> Tensor:
    """The pixels of the visible patches, ``(B, K, 3 * p * p)``, gathered once for teacher and student.

    Raises:
        InputError: images of another size than the encoder's.
    """
    height, width = encoder.patch_embed.img_size
    if images.shape[-2:] != (height, width):
        given = f"{images.shape[-2]}x{images.shape[-1]}"
        raise InputError(f"images of {given} for a network of {height}x{width}", "images", "resize or crop them")
    return gather_patches(images, encoder.grid_size, mask.ids_keep)
