"""Pixel pre-training: backbone and pyramid see a quarter of the units, a decoder predicts the pixels of the others.

Section 3.3. Legend of shapes: B images, N units of p x p pixels, K visible and M = N - K removed ones, d channels of
the pyramid, D of the decoder.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vireo.backbones.masking import TokenMask, gather_tokens, random_masking, visible_tokens
from vireo.backbones.patches import patch_statistics, patchify, pixel_loss, unpatchify
from vireo.backbones.positions import sincos_2d_table
from vireo.errors import InputError

from .attention import AttentionBlock, init_layers
from .hivit import HiViT
from .neck import PyramidNeck, PyramidUnits

NORM_EPS = 1e-6
_SIDES = (1, 2, 4)  # of a unit's inner grid at strides 16, 8 and 4


def level_embeddings(dim: int, out_dim: int) -> nn.ModuleList:
    """A projection of each pyramid level that makes one token of ``out_dim`` channels out of a unit."""
    return nn.ModuleList(
        nn.Sequential(nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, out_dim // side**2)) for side in _SIDES
    )


def fuse_levels(embeddings: nn.ModuleList, pyramid: PyramidUnits) -> Tensor:
    """The sum of the levels, projected by :func:`level_embeddings` and flattened: ``(B, K, out_dim)``."""
    coarse, middle, fine = (embed(level).flatten(2) for embed, level in zip(embeddings, pyramid))
    fused: Tensor = coarse + middle + fine
    return fused


class PixelOutput(NamedTuple):
    """What a step of pixel pre-training computes.

    Attributes:
        loss: scalar to minimise.
        losses: its parts, unweighted, without gradient.
        prediction: ``(B, M, p * p * 3)`` of the units ``mask.ids_removed``.
        mask: which units were visible.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    prediction: Tensor
    mask: TokenMask


class MaskedPyramidAutoencoder(nn.Module):
    """Backbone and pyramid on the visible units, and a transformer that predicts the removed ones.

    The backbone's position table starts as the sine-cosine table and is trained; the decoder's is fixed.

    Args:
        backbone: without classes.
        neck: of the backbone's ``dims``; the published models have ``depth=2``.
        decoder_dim: D, a multiple of 16.
        decoder_depth, decoder_heads: of the decoder.
        mask_ratio: share of the units that is removed, rounded up to whole units.
        norm_pix: predict pixels normalised by their unit.

    Raises:
        InputError: a ratio that removes no unit, or all of them, or sizes that do not fit each other.
    """

    def __init__(
        self,
        backbone: HiViT,
        neck: PyramidNeck,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
    ) -> None:
        super().__init__()
        if decoder_dim % 16 or decoder_heads < 1 or decoder_dim % decoder_heads:
            what = f"{decoder_dim} channels do not suit 4x4 cells of a unit and {decoder_heads} heads"
            raise InputError(what, "decoder_dim", "use a multiple of 16 that the heads divide")
        rows, columns = backbone.grid_size
        if visible_tokens(rows * columns, mask_ratio) == rows * columns:
            what = f"no unit of {rows}x{columns} is removed, so nothing is predicted"
            raise InputError(what, f"mask_ratio={mask_ratio}", "use e.g. 0.75")
        self.mask_ratio, self.norm_pix = mask_ratio, norm_pix
        self.backbone, self.neck = backbone, neck
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        table = sincos_2d_table(backbone.grid_size, decoder_dim)[None]
        self.decoder_pos_embed = nn.Parameter(table, requires_grad=False)
        self.decoder_embed = level_embeddings(neck.dim, decoder_dim)
        self.decoder_blocks = nn.ModuleList(
            AttentionBlock(decoder_dim, decoder_heads, norm_eps=NORM_EPS) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(decoder_dim, backbone.patch_size**2 * backbone.in_chans)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            init_layers(part)
        nn.init.normal_(self.mask_token, std=0.02)
        with torch.no_grad():
            backbone.absolute_pos_embed.copy_(sincos_2d_table(backbone.pos_grid, backbone.embed_dim)[None])

    @property
    def num_units(self) -> int:
        """N."""
        return self.decoder_pos_embed.shape[1]

    def mask(self, images: Tensor, noise: Tensor | None = None) -> TokenMask:
        """Which units stay: those with the least ``noise`` ``(B, N)``; None draws it from torch's global generator.

        Raises:
            InputError: images of another size than the model's, or noise of another shape.
        """
        grid = self.backbone.grid_size
        if self.backbone.grid_of((images.shape[-2], images.shape[-1])) != grid:
            side = self.backbone.patch_size
            what = f"images of {images.shape[-2]}x{images.shape[-1]} for a model of {grid[0] * side}x{grid[1] * side}"
            raise InputError(what, "images", "resize or crop them, or build the model for their size")
        if noise is None:
            noise = torch.rand(len(images), self.num_units, device=images.device)
        if noise.shape != (len(images), self.num_units):
            what = f"noise of shape {tuple(noise.shape)} for {len(images)} images of {self.num_units} units"
            raise InputError(what, "noise", "give one number for each unit")
        return random_masking(noise, self.mask_ratio)

    def pyramid(self, images: Tensor, ids_keep: Tensor | None = None) -> PyramidUnits:
        """The pyramid of the visible units."""
        f4, f8, x16, _ = self.backbone.forward_units(images, ids_keep)
        outputs: PyramidUnits = self.neck(f4, f8, x16)
        return outputs

    def decode(self, pyramid: PyramidUnits, mask: TokenMask) -> Tensor:
        """Tokens of all units behind the decoder's norm, ``(B, N, D)``: first the visible ones, then the removed ones.

        The decoder attends alike in any order, so nothing is put back into the image's. A removed unit gets the mask
        token from each of the three levels.
        """
        visible = fuse_levels(self.decoder_embed, pyramid)
        removed = (3 * self.mask_token).to(visible.dtype).expand(len(visible), mask.ids_removed.shape[1], -1)
        places = self.decoder_pos_embed[0][torch.cat((mask.ids_keep, mask.ids_removed), 1)]
        x = torch.cat((visible, removed), 1) + places
        for block in self.decoder_blocks:
            x = block(x)
        normed: Tensor = self.decoder_norm(x)
        return normed

    def forward(self, images: Tensor, noise: Tensor | None = None) -> PixelOutput:
        """Loss of a batch.

        Args:
            images: normalised ``(B, 3, H, W)`` of the model's size.
            noise: ``(B, N)`` whose ranks decide which units are visible; None draws it.

        Raises:
            InputError: see :meth:`mask`.
        """
        mask = self.mask(images, noise)
        tokens = self.decode(self.pyramid(images, mask.ids_keep), mask)
        return self._judged(images, tokens, mask)

    def _judged(self, images: Tensor, tokens: Tensor, mask: TokenMask) -> PixelOutput:
        """Predict the removed units from tokens of all."""
        prediction = self.decoder_pred(tokens[:, mask.ids_keep.shape[1] :])
        units = patchify(images, self.backbone.patch_size, mask.ids_removed)
        loss = pixel_loss(prediction, units, self.norm_pix)
        return PixelOutput(loss, {"pixel": loss.detach()}, prediction, mask)

    def predict(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, TokenMask]:
        """The prediction of all units in the image's order, ``(B, N, p * p * 3)``, and the mask."""
        mask = self.mask(images, noise)
        tokens = self.decode(self.pyramid(images, mask.ids_keep), mask)
        return gather_tokens(self.decoder_pred(tokens), mask.ids_restore), mask

    @torch.no_grad()
    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """What is seen and what is recovered, in the scale of ``images``; arguments as of :meth:`forward`.

        Returns:
            ``(B, 3, H, W)``: ``input`` (removed units zero) and ``prediction`` (removed units as predicted, with the
            mean and deviation of the true ones where the model predicts normalised pixels).
        """
        prediction, mask = self.predict(images, noise)
        size, grid = self.backbone.patch_size, self.backbone.grid_size
        units = patchify(images.float(), size)
        if self.norm_pix:
            mean, deviation = patch_statistics(units)
            prediction = prediction * deviation + mean
        removed = mask.mask[:, :, None]
        return {
            "input": unpatchify(units.masked_fill(removed, 0), size, grid),
            "prediction": unpatchify(torch.where(removed, prediction.float(), units), size, grid),
        }
