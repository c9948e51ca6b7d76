"""P2P-Loc: Point to Point Tiny Person Localization (arXiv 2112.15344).

The public surface is imported on first use, so that ``import p2p_loc`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .annotations import Detections as Detections
    from .annotations import PointAnnotations as PointAnnotations
    from .box_eval import evaluate_boxes as evaluate_boxes
    from .coarse import coarse_points as coarse_points
    from .data import build_evaluation_set as build_evaluation_set
    from .data import build_loader as build_loader
    from .data import build_training as build_training
    from .detection import detect as detect
    from .detection import evaluate_localizer as evaluate_localizer
    from .draw import draw_points as draw_points
    from .label_quality import label_error as label_error
    from .label_quality import label_statistics as label_statistics
    from .load import load_run as load_run
    from .localizer import Localizer as Localizer
    from .location import LocationEvaluator as LocationEvaluator
    from .location import evaluate_locations as evaluate_locations
    from .matching import match_points as match_points
    from .merge import merge_tiles as merge_tiles
    from .official import from_official as from_official
    from .official import to_official as to_official
    from .p2p_head import P2PHead as P2PHead
    from .p2p_head import P2PNet as P2PNet
    from .people import GeneratedPeople as GeneratedPeople
    from .point_files import read_points as read_points
    from .point_labels import PointSettings as PointSettings
    from .point_labels import TileSettings as TileSettings
    from .point_labels import make_labels as make_labels
    from .pseudo import pseudo_boxes as pseudo_boxes
    from .refiner import PointRefiner as PointRefiner
    from .relabel import refine_annotations as refine_annotations
    from .reppoints import RepPoints as RepPoints
    from .reppoints import RepPointsHead as RepPointsHead
    from .rounds import self_refine_rounds as self_refine_rounds
    from .small import SmallLocalizer as SmallLocalizer
    from .tiles import crop_annotations as crop_annotations
    from .tiles import tile_image as tile_image

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
