"""iTPN: hierarchical transformers pre-trained together with their feature pyramid (arXiv 2211.12735, CVPR 2023).

The public surface is imported on first use, so that ``import itpn`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .block_mask import block_mask as block_mask
    from .block_mask import block_masks as block_masks
    from .clip import CLIPTeacher as CLIPTeacher
    from .distill import FeatureDistillPretrain as FeatureDistillPretrain
    from .fast import FastITPN as FastITPN
    from .features import iTPNFeatures as iTPNFeatures
    from .hivit import HiViT as HiViT
    from .identify import from_official as from_official
    from .layer_decay import layer_decay_groups as layer_decay_groups
    from .momentum import MomentumPyramidAutoencoder as MomentumPyramidAutoencoder
    from .neck import PyramidNeck as PyramidNeck
    from .official import load_backbone as load_backbone
    from .official import load_pyramid as load_pyramid
    from .official import split_official as split_official
    from .official import to_official as to_official
    from .pixel import MaskedPyramidAutoencoder as MaskedPyramidAutoencoder
    from .sizes import itpn_backbone as itpn_backbone

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
