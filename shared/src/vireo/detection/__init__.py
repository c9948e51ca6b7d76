"""Object detection with torchvision's R-CNNs: data and targets, assembly over any pyramid, COCO evaluation.

Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from vireo.detection.assemble import PyramidBackbone as PyramidBackbone
    from vireo.detection.assemble import rcnn as rcnn
    from vireo.detection.evaluate import evaluate_detector as evaluate_detector
    from vireo.detection.evaluate import ground_truth as ground_truth
    from vireo.detection.evaluate import predictions_of as predictions_of
    from vireo.detection.gallery import GALLERY as GALLERY
    from vireo.detection.gallery import write_gallery as write_gallery
    from vireo.detection.heads import LossHeads as LossHeads
    from vireo.detection.roi_align import AlignedRoIAlign as AlignedRoIAlign
    from vireo.detection.sets import build_loader as build_loader
    from vireo.detection.sets import build_sets as build_sets
    from vireo.detection.sets import has_masks as has_masks
    from vireo.detection.targets import training_targets as training_targets
    from vireo.detection.transforms import LargeScaleJitter as LargeScaleJitter
    from vireo.detection.transforms import RandomWindow as RandomWindow

__all__, __getattr__, __dir__ = exports(__name__, __file__)
