"""G2SD: generic-to-specific distillation of masked autoencoders (arXiv 2302.14771, CVPR 2023).

The public surface is imported on first use, so that ``import g2sd`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .classifier import Classifier as Classifier
    from .classifier import DistilledVisionTransformer as DistilledVisionTransformer
    from .detector import vitdet_rcnn as vitdet_rcnn
    from .distilled_detector import DistilledDetector as DistilledDetector
    from .divergence import ChannelWiseDivergence as ChannelWiseDivergence
    from .divergence import PixelDivergence as PixelDivergence
    from .generic import GenericDistiller as GenericDistiller
    from .generic import GenericStudent as GenericStudent
    from .generic import generic_distillation_loss as generic_distillation_loss
    from .imitation import ObjectnessWeightedImitation as ObjectnessWeightedImitation
    from .losses import NKDLoss as NKDLoss
    from .losses import hard_distillation_loss as hard_distillation_loss
    from .losses import soft_distillation_loss as soft_distillation_loss
    from .mae import MaskedAutoencoder as MaskedAutoencoder
    from .official import convert_checkpoint as convert_checkpoint
    from .official import load_encoder as load_encoder
    from .official import load_teacher as load_teacher
    from .official import read_encoder as read_encoder
    from .official import to_official as to_official
    from .relation import relation_loss as relation_loss
    from .segmentation_vit import SegmentationViT as SegmentationViT
    from .segmenter import Segmenter as Segmenter
    from .sizes import mae_model as mae_model
    from .teacher import FrozenTeacher as FrozenTeacher
    from .teacher import MAETeacher as MAETeacher
    from .teacher_check import check_teacher as check_teacher
    from .vitdet import ViTDet as ViTDet

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
