"""Backbones over timm, the feature pyramid on top of them, and batch normalisation across processes.

Names are imported when they are first used: timm alone takes about a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; _HOMES says the same to the interpreter
    from vireo.backbones.batchnorm import GlobalBatchNorm2d as GlobalBatchNorm2d
    from vireo.backbones.batchnorm import global_batch_norm as global_batch_norm
    from vireo.backbones.decoder import TokenDecoder as TokenDecoder
    from vireo.backbones.fpn import FPN as FPN
    from vireo.backbones.mae import load_mae as load_mae
    from vireo.backbones.masked_vit import MaskedViT as MaskedViT
    from vireo.backbones.masking import TokenMask as TokenMask
    from vireo.backbones.masking import random_masking as random_masking
    from vireo.backbones.pyramid import FixedStatsBatchNorm2d as FixedStatsBatchNorm2d
    from vireo.backbones.pyramid import load_registrations as load_registrations
    from vireo.backbones.pyramid import pyramid_backbone as pyramid_backbone

_HOMES = {
    "FPN": "fpn",
    "FixedStatsBatchNorm2d": "pyramid",
    "GlobalBatchNorm2d": "batchnorm",
    "MaskedViT": "masked_vit",
    "TokenDecoder": "decoder",
    "TokenMask": "masking",
    "global_batch_norm": "batchnorm",
    "load_mae": "mae",
    "load_registrations": "pyramid",
    "pyramid_backbone": "pyramid",
    "random_masking": "masking",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
