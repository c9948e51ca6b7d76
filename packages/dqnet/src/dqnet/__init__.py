"""DQnet: Cross-Model Detail Querying for Camouflaged Object Detection (arXiv 2212.08296).

The public surface is imported on first use, so that ``import dqnet`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .heads import QueryMapHead as QueryMapHead
    from .heads import SimpleFusionHead as SimpleFusionHead
    from .losses import structure_loss as structure_loss
    from .losses import structure_losses as structure_losses
    from .model import DQnet as DQnet
    from .queried_resnet import QueriedResNet as QueriedResNet
    from .rbq import RelationBasedQuery as RelationBasedQuery
    from .vit import GlobalViT as GlobalViT

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
