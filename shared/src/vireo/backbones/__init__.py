"""Backbones over timm, the feature pyramid on top of them, and batch normalisation across processes."""

from .batchnorm import GlobalBatchNorm2d, global_batch_norm
from .decoder import TokenDecoder
from .fpn import FPN
from .mae import load_mae
from .masked_vit import MaskedViT
from .masking import TokenMask, random_masking
from .pyramid import FixedStatsBatchNorm2d, load_registrations, pyramid_backbone

__all__ = [
    "FPN",
    "FixedStatsBatchNorm2d",
    "GlobalBatchNorm2d",
    "MaskedViT",
    "TokenDecoder",
    "TokenMask",
    "global_batch_norm",
    "load_mae",
    "load_registrations",
    "pyramid_backbone",
    "random_masking",
]
