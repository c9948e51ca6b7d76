"""SSD-Det: spatial self-distillation for object detection with inaccurate bounding boxes (ICCV 2023).

The public surface is imported on first use, so that ``import ssd_det`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; _HOMES says the same to the interpreter
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

_HOMES = {
    "perturb_boxes": "noise",
    "make_noisy_coco": "noise",
    "neighborhood_proposals": "bags",
    "random_negatives": "bags",
    "select_and_merge": "bags",
    "mil_bag_loss": "losses",
    "BoxRefiner": "refiner",
    "SSDDet": "model",
    "OAMILDet": "oamil",
    "refine_annotations": "refine",
    "from_official": "official",
    "to_official": "official",
    "to_torchvision": "torchvision_layout",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ssd_det' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
