"""Plain vision transformer as a detection backbone: timm's ViT and the simple feature pyramid of ViTDet.

"Exploring Plain Vision Transformer Backbones for Object Detection", Li et al., ECCV 2022. The transformer keeps timm's
parameter names, which are those of MAE's released checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d, resample_abs_pos_embed
from timm.models import FeatureInfo
from torch import Tensor, nn

from vireo.backbones.pyramid import load_registrations
from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.errors import InputError

# What a pre-training or fine-tuning checkpoint holds beside the encoder.
_NOT_ENCODER = ("decoder_", "mask_token", "head.")


class SimpleFeaturePyramid(nn.Module):
    """Four maps at 4, 2, 1 and 1/2 times the resolution of one map, each by its own branch (ViTDet, section 3).

    A branch resizes (transposed convolutions or max-pooling), then applies a 1x1 and a 3x3 convolution with LayerNorm.

    Args:
        in_channels: channels D of the map, divisible by 4.
        out_channels: channels of every output.
    """

    def __init__(self, in_channels: int, out_channels: int = 256) -> None:
        super().__init__()

        def up(channels: int) -> nn.Module:
            return nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)

        half, quarter = in_channels // 2, in_channels // 4
        resize = {
            quarter: nn.Sequential(up(in_channels), LayerNorm2d(half), nn.GELU(), up(half)),
            half: up(in_channels),
        }
        branches: list[tuple[int, nn.Module]] = [
            *resize.items(),
            (in_channels, nn.Identity()),
            (in_channels, nn.MaxPool2d(2)),
        ]
        self.branches = nn.ModuleList(
            nn.Sequential(
                module,
                nn.Conv2d(channels, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for channels, module in branches
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, D, H, W)``, H and W even, to maps ``(B, C, s H, s W)`` for s = 4, 2, 1, 1/2."""
        return [branch(x) for branch in self.branches]


class ViTFeatures(nn.Module):
    """Plain ViT with a simple feature pyramid: maps at strides 4, 8, 16 and 32 (patch size p = 16; else p/4 ... 2p).

    The last normalised tokens, without class and register tokens, are the one map that the pyramid grows from. Position
    embeddings follow the image: the table, a fixed one too, is interpolated from the grid of the body's own
    ``img_size``, which should be that of its pre-training. (A sinusoid over the token index computed anew for another
    grid would say other places.)

    Args:
        name: timm ViT, e.g. ``vit_base_patch16_224``, or one registered by a Vireo package, e.g.
            ``beyond_masking_vit_base``.
        out_channels: channels of every map.
        pretrained: load timm's weights for this name.
        weights: file of a pre-training or fine-tuning, in place of those: for a ViT of timm in timm's or MAE's layout,
            for one of a Vireo package in any that the package reads.
        **kwargs: for ``timm.create_model``, e.g. ``drop_path_rate``, ``embed_dim``, ``depth``, ``img_size``.

    Attributes:
        body: the timm model.
        strides, channels: of the maps, finest first.
        feature_info: the same as timm's feature extractors give it.

    Raises:
        InputError: an unknown name, or weights that cannot be read or do not fit.
        TypeError: a model that does not take images of any size, or has no such options.
    """

    def __init__(
        self, name: str, *, out_channels: int = 256, pretrained: bool = False, weights: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__()
        load_registrations()
        if not timm.is_model(name):
            raise InputError(f"unknown transformer {name!r}", "ViTFeatures", "use the name of a timm ViT")
        # timm drops what does not fit its own ViTs without a word; the packages' are as strict as load_body
        by_timm = timm.model_entrypoint(name).__module__.startswith("timm.")
        if weights is not None:
            pretrained = not by_timm
            if not by_timm:
                kwargs["pretrained_cfg_overlay"] = {"file": weights}
        body: Any = timm.create_model(
            name, pretrained=pretrained, num_classes=0, global_pool="", dynamic_img_size=True, **kwargs
        )
        patch = body.feature_info[-1]["reduction"]
        self.body = body
        self.pyramid = SimpleFeaturePyramid(body.embed_dim, out_channels)
        self.strides = (patch // 4, patch // 2, patch, 2 * patch)
        self.channels = (out_channels,) * 4
        maps = [
            {"num_chs": out_channels, "reduction": stride, "module": f"pyramid.branches.{i}"}
            for i, stride in enumerate(self.strides)
        ]
        self.feature_info = FeatureInfo(maps, out_indices=(0, 1, 2, 3))
        if weights is not None and by_timm:
            fit_state_dict(body, self._encoder_state(state_dict_in(read(weights), weights)), weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images ``(B, 3, H, W)`` to four maps ``(B, C, H / s, W / s)``, finest first.

        Raises:
            ValueError: H or W is not a multiple of the largest stride.
        """
        height, width = images.shape[-2:]
        if height % self.strides[-1] or width % self.strides[-1]:
            raise ValueError(f"image of {height} x {width} pixels: pad it to a multiple of {self.strides[-1]}")
        body: Any = self.body
        tokens = body.forward_features(images)[:, body.num_prefix_tokens :]
        patch = self.strides[2]
        # Tokens are in row-major order: (B, N, D) -> (B, D, H / p, W / p).
        grid = tokens.transpose(1, 2).unflatten(2, (height // patch, width // patch)).contiguous()
        maps: list[Tensor] = self.pyramid(grid)
        return maps

    def load_body(self, state: Mapping[str, Tensor]) -> None:
        """Load the transformer from a state dict in timm's or MAE's layout.

        Entries of MAE's decoder, its mask token and a classifier are not the encoder's and are left out; position
        embeddings made for another image size are resized. Everything else must fit.

        Raises:
            RuntimeError: missing, unexpected or misshaped keys, all listed.
        """
        self.body.load_state_dict(self._encoder_state(state), strict=True)

    def _encoder_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entries of the encoder, position embeddings resized."""
        encoder = {key: value for key, value in state.items() if not key.startswith(_NOT_ENCODER)}
        if "pos_embed" in encoder:
            encoder["pos_embed"] = self._resized(encoder["pos_embed"])
        return encoder

    @torch.no_grad()
    def _resized(self, embedding: Tensor) -> Tensor:
        """Position embedding ``(1, T + n^2, D)`` of a square grid with T class tokens, resized to the body's grid."""
        body: Any = self.body
        own = body.pos_embed
        prefix = own.shape[1] - body.patch_embed.num_patches
        if embedding.ndim != 3 or embedding.shape[1] == own.shape[1] or embedding.shape[2] != own.shape[2]:
            return embedding  # fits, or is for load_state_dict to refuse
        size = list(body.patch_embed.grid_size)
        resized: Tensor = resample_abs_pos_embed(embedding, new_size=size, num_prefix_tokens=prefix)
        return resized
