"""Token-based pre-training of vision transformers beyond masking (arXiv 2203.14313).

The public surface is imported on first use, so that ``import beyond_masking`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
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

__all__, __getattr__, __dir__ = exports(__name__, __file__)
