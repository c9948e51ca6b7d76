"""Backbones over timm, the feature pyramid on top of them, and batch normalisation across processes.

Names are imported when they are first used: timm alone takes about a second.
"""

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from vireo.backbones.batchnorm import GlobalBatchNorm2d as GlobalBatchNorm2d
    from vireo.backbones.batchnorm import global_batch_norm as global_batch_norm
    from vireo.backbones.decoder import TokenDecoder as TokenDecoder
    from vireo.backbones.fpn import FPN as FPN
    from vireo.backbones.mae import load_mae as load_mae
    from vireo.backbones.masked_vit import MaskedViT as MaskedViT
    from vireo.backbones.masking import TokenMask as TokenMask
    from vireo.backbones.masking import random_masking as random_masking
    from vireo.backbones.patches import gather_patches as gather_patches
    from vireo.backbones.patches import patchify as patchify
    from vireo.backbones.patches import pixel_loss as pixel_loss
    from vireo.backbones.patches import unpatchify as unpatchify
    from vireo.backbones.pyramid import FixedStatsBatchNorm2d as FixedStatsBatchNorm2d
    from vireo.backbones.pyramid import load_registrations as load_registrations
    from vireo.backbones.pyramid import pyramid_backbone as pyramid_backbone

__all__, __getattr__, __dir__ = exports(__name__, __file__)
