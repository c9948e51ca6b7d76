"""The pre-training model: degrade, mask, encode what is visible, decode everything that is judged."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vireo.backbones import MaskedViT, TokenDecoder, TokenMask, random_masking
from vireo.engine import Pretrained
from vireo.errors import InputError

from .degradations import Degradation, Desaturate, Fisheye, Identity, RandomBlur, RandomGray
from .draws import Draws, GeneratorDraws
from .targets import PixelTarget, patchify, unpatchify
from .zoom import ZoomIn, ZoomOut

MASKED_LEVEL = 0.5  # grey of removed patches in pictures
DEGRADATIONS = ("none", "zoomed_in", "zoomed_out", "distorted", "blurred", "decolorized", "desaturated")


def build_degradation(name: str, input_size: int = 224, **options: Any) -> Degradation:
    """A degradation by its name, for an encoder of images of ``input_size``.

    The crop is 9/7 of that for zoomed-in and 5/7 for zoomed-out: 288 and 160 for 224 (section 3.5).

    Args:
        name: one of :data:`DEGRADATIONS`; ``none`` is the mask-only baseline.
        input_size: side of what the encoder sees.
        **options: of the degradation's class.

    Raises:
        InputError: an unknown name or option.
    """
    if name not in DEGRADATIONS:
        raise InputError(f"unknown degradation {name!r}", "degradation", f"use one of {', '.join(DEGRADATIONS)}")
    try:
        if name == "zoomed_in":
            return ZoomIn(input_size, options.pop("full_size", 2 * round(input_size * 9 / 14)), **options)
        if name == "zoomed_out":
            return ZoomOut(options.pop("image_size", round(input_size * 5 / 7)), input_size, **options)
        plain = {
            "none": Identity,
            "distorted": Fisheye,
            "blurred": RandomBlur,
            "decolorized": RandomGray,
            "desaturated": Desaturate,
        }
        return plain[name](input_size, **options)
    except TypeError as error:
        what = str(error).partition(") ")[2] or str(error)
        raise InputError(what, f"degradation {name}", "see the arguments of its class") from error


class PretrainOutput(NamedTuple):
    """What a pre-training step computes.

    Attributes:
        loss: scalar to minimise.
        losses: its parts, unweighted.
        prediction: ``(B, M, p * p * 3)``, of ``mask.ids_removed`` or, where the loss needs all, of every patch.
        mask: None without masking.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    prediction: Tensor
    mask: TokenMask | None


class TokenPretrainModel(nn.Module, Pretrained):
    """Encoder and decoder that recover what a degradation and a mask took (sections 3.2 to 3.5).

    The published tasks are a degradation with ``mask_ratio=0``, MAE is ``none`` with 0.75, the integrated model
    ``zoomed_in`` with 0.75.

    Args:
        degradation: a name of :data:`DEGRADATIONS` or an object, whose input size is then ``img_size``.
        mask_ratio: share of patches that the encoder does not see.
        img_size: side of what the encoder sees.
        patch_size: p.
        embed_dim, depth, num_heads: of the encoder.
        decoder_dim, decoder_depth, decoder_heads: of the decoder.
        degradation_options: arguments of the degradation if it is given by name.
        normalize_target: predict pixels normalised by their patch.
        positions: ``sinusoid`` over the token index, as published, or ``sincos_2d``.
        init: ``published`` (normal cut at one deviation of 0.02) or ``xavier``.

    Attributes:
        task: degradation and mask in words.
        encoder: :class:`~vireo.backbones.MaskedViT`.
        decoder: :class:`~vireo.backbones.TokenDecoder`.

    Raises:
        InputError: an unknown name, or sizes that do not fit.
    """

    def __init__(
        self,
        degradation: str | Degradation = "zoomed_in",
        mask_ratio: float = 0.75,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_dim: int = 384,
        decoder_depth: int = 4,
        decoder_heads: int = 6,
        degradation_options: dict[str, Any] | None = None,
        normalize_target: bool = True,
        positions: Literal["sinusoid", "sincos_2d"] = "sinusoid",
        init: Literal["published", "xavier"] = "published",
    ) -> None:
        super().__init__()
        name = degradation if isinstance(degradation, str) else type(degradation).__name__
        if isinstance(degradation, str):
            degradation = build_degradation(degradation, img_size, **(degradation_options or {}))
        if degradation.input_size != img_size:
            what = f"the degradation makes images of {degradation.input_size}, the encoder takes {img_size}"
            raise InputError(what, "img_size", "use the same size")
        self.degradation, self.mask_ratio = degradation, mask_ratio
        words = [name.replace("_", "-")] if name != "none" else []
        self.task = ", ".join([*words, *([f"{100 * mask_ratio:.0f} % masked"] if mask_ratio else [])]) or "unchanged"
        self.encoder = MaskedViT(
            img_size, patch_size, degradation.in_chans, embed_dim, depth, num_heads, positions=positions
        )
        self.decoder = TokenDecoder(
            embed_dim,
            3 * patch_size**2,
            self.encoder.grid_size,
            decoder_dim,
            decoder_depth,
            decoder_heads,
            positions=positions,
        )
        self.target = PixelTarget(patch_size, normalize_target)
        initialize(self, init)
        self.decoder.mask_token.requires_grad_(mask_ratio > 0)  # unused otherwise
        random_masking(torch.zeros(1, self.num_patches), mask_ratio)  # is the ratio one?

    @property
    def num_patches(self) -> int:
        """N."""
        return self.encoder.patch_embed.num_patches

    @property
    def crop_size(self) -> int:
        """Side of the images that ``forward`` takes."""
        return self.degradation.crop_size

    def forward(
        self, images: Tensor, params: Any = None, noise: Tensor | None = None, draws: Draws | None = None
    ) -> PretrainOutput:
        """Loss of a batch.

        Args:
            images: ImageNet-normalised ``(B, 3, crop_size, crop_size)``.
            params: of the degradation; None draws them.
            noise: ``(B, N)`` whose ranks decide which patches are visible; None draws it.
            draws: source of what is drawn; None is torch's global generator of the device.

        Raises:
            InputError: images of another size.
        """
        draws = draws or GeneratorDraws(len(images), images.device)
        inputs, params = self.degradation(images, params, draws)
        mask = self._mask(noise, draws)
        tokens = self.encoder.forward_visible(inputs, None if mask is None else mask.ids_keep)
        judged = None if mask is None or self.degradation.needs_all else mask.ids_removed
        prediction = self.decoder(tokens, mask, judged)
        losses = self.degradation.losses(prediction, images, params, mask, self.target)
        return PretrainOutput(self.degradation.total(losses), losses, prediction, mask)

    def _mask(self, noise: Tensor | None, draws: Draws) -> TokenMask | None:
        if self.mask_ratio == 0:
            return None
        return random_masking(draws.uniform("mask", self.num_patches) if noise is None else noise, self.mask_ratio)

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, params: Any = None, noise: Tensor | None = None, draws: Draws | None = None
    ) -> dict[str, Tensor]:
        """Pictures of what is lost and what is recovered; arguments as of :meth:`forward`.

        Returns:
            Images in [0, 1], ``(B, 3, ., .)``: ``original`` (the crop), ``input`` (degraded, removed patches grey),
            ``prediction`` (with mean and deviation of the target's patches) and ``target`` (what it should be).
        """
        draws = draws or GeneratorDraws(len(images), images.device)
        inputs, params = self.degradation(images, params, draws)
        mask = self._mask(noise, draws)
        tokens = self.encoder.forward_visible(inputs, None if mask is None else mask.ids_keep)
        prediction = self.decoder(tokens, mask)
        seen = self.degradation.seen_of(images)
        shown = self._pixels(inputs.expand(-1, 3, -1, -1))
        if mask is not None:
            patches = patchify(shown, self.target.patch_size)
            patches = torch.where(mask.mask[:, :, None], MASKED_LEVEL, patches)
            shown = unpatchify(patches, self.target.patch_size)
        return {
            "original": self._pixels(images),
            "input": shown,
            "prediction": self.target.denormalize(prediction, seen),
            "target": self._pixels(seen),
        }

    def _pixels(self, images: Tensor) -> Tensor:
        return (images.float() * self.target.std + self.target.mean).clamp(0, 1)


@torch.no_grad()
def initialize(model: TokenPretrainModel, init: str = "published") -> None:
    """Fresh weights for ``model`` (section 3.2).

    ``published``: linear weights normal with deviation 0.02 cut at one deviation, biases 0; the patch embedding and the
    projection to the decoder keep torch's defaults. ``xavier``: linear weights and the patch embedding (as a matrix)
    Xavier-uniform. Norms are 1 and 0, the mask token is normal as above.

    Raises:
        InputError: an unknown ``init``.
    """
    if init not in ("published", "xavier"):
        raise InputError(f"unknown initialisation {init!r}", "init", "use published or xavier")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            if init == "published":
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.02, b=0.02)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    nn.init.trunc_normal_(model.decoder.mask_token, std=0.02, a=-0.02, b=0.02)
    proj = model.encoder.patch_embed.proj
    if init == "xavier":
        nn.init.xavier_uniform_(proj.weight.flatten(1))
        if proj.bias is not None:
            nn.init.zeros_(proj.bias)
    else:
        proj.reset_parameters()
        nn.init.kaiming_uniform_(model.decoder.embed.weight, a=math.sqrt(5))


def pretrain_vit_small(
    degradation: str | Degradation = "zoomed_in", mask_ratio: float = 0.75, **options: Any
) -> TokenPretrainModel:
    """ViT-S/16 with the light decoder; ``options`` are those of :class:`TokenPretrainModel`."""
    sizes = {"embed_dim": 384, "num_heads": 6, "decoder_dim": 192, "decoder_heads": 3}
    return TokenPretrainModel(degradation, mask_ratio, **{**sizes, **options})


def pretrain_vit_base(
    degradation: str | Degradation = "zoomed_in", mask_ratio: float = 0.75, **options: Any
) -> TokenPretrainModel:
    """ViT-B/16, the paper's model; ``options`` are those of :class:`TokenPretrainModel`."""
    return TokenPretrainModel(degradation, mask_ratio, **options)


def pretrain_vit_large(
    degradation: str | Degradation = "zoomed_in", mask_ratio: float = 0.75, **options: Any
) -> TokenPretrainModel:
    """ViT-L/16, 24 + 8 blocks (the released zoomed-in code has 12 + 4: give ``depth`` and ``decoder_depth``)."""
    sizes = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
    sizes |= {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 8}
    return TokenPretrainModel(degradation, mask_ratio, **{**sizes, **options})
