"""SSD-Det: spatial self-distillation for object detection with inaccurate bounding boxes (ICCV 2023).

The public surface is imported on first use, so that ``import ssd_det`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .bags import neighborhood_proposals as neighborhood_proposals
    from .bags import random_negatives as random_negatives
    from .bags import select_and_merge as select_and_merge
    from .losses import mil_bag_loss as mil_bag_loss
    from .model import SSDDet as SSDDet
    from .noise import make_noisy_coco as make_noisy_coco
    from .noise import perturb_boxes as perturb_boxes
    from .oamil import OAMILDet as OAMILDet
    from .official import from_official as from_official
    from .official import to_official as to_official
    from .refine import refine_annotations as refine_annotations
    from .refiner import BoxRefiner as BoxRefiner
    from .torchvision_layout import to_torchvision as to_torchvision

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
