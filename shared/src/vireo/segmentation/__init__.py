"""Semantic segmentation: heads over feature maps, the model around them, inference by sliding windows.

Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from vireo.segmentation.evaluate import evaluate_segmenter as evaluate_segmenter
    from vireo.segmentation.gallery import write_gallery as write_gallery
    from vireo.segmentation.heads import FCNHead as FCNHead
    from vireo.segmentation.heads import UPerHead as UPerHead
    from vireo.segmentation.loaders import build_loader as build_loader
    from vireo.segmentation.model import SegmentationModel as SegmentationModel
    from vireo.segmentation.model import segmentation_loss as segmentation_loss
    from vireo.segmentation.sliding import sliding_window_logits as sliding_window_logits

__all__, __getattr__, __dir__ = exports(__name__, __file__)
