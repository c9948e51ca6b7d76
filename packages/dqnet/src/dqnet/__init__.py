"""DQnet: Cross-Model Detail Querying for Camouflaged Object Detection (arXiv 2212.08296).

The public surface is imported on first use, so that ``import dqnet`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .camouflage import GeneratedCamouflage as GeneratedCamouflage
    from .cod import build_cod_train as build_cod_train
    from .data import build_dataset as build_dataset
    from .data import build_loader as build_loader
    from .evaluation import evaluate as evaluate
    from .evaluation import probability_maps as probability_maps
    from .groups import param_groups as param_groups
    from .heads import QueryMapHead as QueryMapHead
    from .heads import SimpleFusionHead as SimpleFusionHead
    from .load import load_run as load_run
    from .losses import structure_loss as structure_loss
    from .losses import structure_losses as structure_losses
    from .mask_files import MaskFolders as MaskFolders
    from .metrics import SegmentationMetrics as SegmentationMetrics
    from .model import DQnet as DQnet
    from .official import from_official as from_official
    from .official import to_official as to_official
    from .queried_resnet import QueriedResNet as QueriedResNet
    from .querying import querying_maps as querying_maps
    from .rbq import RelationBasedQuery as RelationBasedQuery
    from .scoring import score_folder as score_folder
    from .vit import GlobalViT as GlobalViT
    from .weights import load_resnet as load_resnet
    from .weights import load_vit as load_vit

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
