"""Backbones over timm, the feature pyramid on top of them, and batch normalisation across processes."""

from .batchnorm import GlobalBatchNorm2d, global_batch_norm
from .fpn import FPN
from .pyramid import FixedStatsBatchNorm2d, load_registrations, pyramid_backbone

__all__ = [
    "FPN",
    "FixedStatsBatchNorm2d",
    "GlobalBatchNorm2d",
    "global_batch_norm",
    "load_registrations",
    "pyramid_backbone",
]
