"""Backbones over timm and the feature pyramid on top of them."""

from .fpn import FPN
from .pyramid import FixedStatsBatchNorm2d, load_registrations, pyramid_backbone

__all__ = ["FPN", "FixedStatsBatchNorm2d", "load_registrations", "pyramid_backbone"]
