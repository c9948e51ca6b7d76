"""Token-based pre-training of vision transformers beyond masking (arXiv 2203.14313).

The public surface is imported on first use, so that ``import beyond_masking`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; _HOMES says the same to the interpreter
    from .degradations import Degradation as Degradation
    from .degradations import Desaturate as Desaturate
    from .degradations import Fisheye as Fisheye
    from .degradations import Identity as Identity
    from .degradations import RandomBlur as RandomBlur
    from .degradations import RandomGray as RandomGray
    from .draws import GeneratorDraws as GeneratorDraws
    from .draws import KeyedDraws as KeyedDraws
    from .model import TokenPretrainModel as TokenPretrainModel
    from .model import build_degradation as build_degradation
    from .model import pretrain_vit_base as pretrain_vit_base
    from .model import pretrain_vit_large as pretrain_vit_large
    from .model import pretrain_vit_small as pretrain_vit_small
    from .official import from_official as from_official
    from .official import load_pretrained_encoder as load_pretrained_encoder
    from .official import load_pretraining as load_pretraining
    from .official import to_official as to_official
    from .targets import PixelTarget as PixelTarget
    from .targets import normalized_pixel_target as normalized_pixel_target
    from .zoom import ZoomIn as ZoomIn
    from .zoom import ZoomOut as ZoomOut

__version__ = "0.1.0"

_HOMES = {
    "TokenPretrainModel": "model",
    "pretrain_vit_small": "model",
    "pretrain_vit_base": "model",
    "pretrain_vit_large": "model",
    "build_degradation": "model",
    "Degradation": "degradations",
    "Identity": "degradations",
    "ZoomIn": "zoom",
    "ZoomOut": "zoom",
    "Fisheye": "degradations",
    "RandomBlur": "degradations",
    "RandomGray": "degradations",
    "Desaturate": "degradations",
    "GeneratorDraws": "draws",
    "KeyedDraws": "draws",
    "PixelTarget": "targets",
    "normalized_pixel_target": "targets",
    "load_pretraining": "official",
    "load_pretrained_encoder": "official",
    "from_official": "official",
    "to_official": "official",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
