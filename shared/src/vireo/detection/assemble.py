"""torchvision's Faster and Mask R-CNN over a pyramid of maps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from vireo.backbones.vit import ViTFeatures
from vireo.detection.roi_align import AlignedRoIAlign
from vireo.errors import InputError

ROI_LEVELS = ("0", "1", "2", "3")  # regions are pooled from the four finest maps
_OF_TRANSFORM = ("size_divisible", "fixed_size", "_skip_resize")
Norm = Callable[[int], nn.Module]


class PyramidBackbone(nn.Module):
    """The maps of :class:`~vireo.backbones.vit.ViTFeatures` as torchvision's detectors take them, one pooled more."""

    def __init__(self, features: ViTFeatures) -> None:
        super().__init__()
        self.features = features
        self.out_channels = features.channels[0]
        self.strides = (*features.strides, 2 * features.strides[-1])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, 3, H, W)`` to maps ``(B, C, H / s, W / s)`` named ``0`` .. ``3`` and ``pool``, finest first."""
        maps = self.features(images)
        names = [*map(str, range(len(maps))), "pool"]
        return dict(zip(names, [*maps, F.max_pool2d(maps[-1], 1, stride=2)]))


def rcnn(
    backbone: Any,
    num_classes: int,
    *,
    masks: bool = True,
    rpn_convs: int = 2,
    box_norm: Norm | None = LayerNorm2d,
    mask_norm: Norm | None = LayerNorm2d,
    aligned: bool = False,
    hidden: int | None = None,
    short_side: int | tuple[int, ...] = 800,
    long_side: int = 1333,
    **options: Any,
) -> FasterRCNN:
    """Mask R-CNN, or Faster R-CNN where there are no masks, with convolutional heads.

    Four convolutions and a linear layer for boxes, four convolutions for masks. Box sides of 8 strides, in three
    shapes, are the anchors of a map. Images are given in [0, 1] and resized inside; class 0 is the background.

    Args:
        backbone: images to maps by name, the four finest ``0`` to ``3``; with ``out_channels``, the channels of each,
            and ``strides``.
        num_classes: without background.
        masks: predict them.
        rpn_convs: convolutions of the region proposal network.
        box_norm, mask_norm: behind the convolutions of a head; None for none.
        aligned: pool regions with :class:`~vireo.detection.AlignedRoIAlign`, else as torchvision does.
        hidden: channels of the linear layer; four times those of the maps by default.
        short_side: of an image in pixels; of several, training draws one and evaluation takes the last.
        long_side: at most.
        **options: of torchvision's classes, e.g. ``box_score_thresh``.

    Raises:
        InputError: an option that they do not have.
    """
    known = {*inspect.signature(MaskRCNN).parameters, *_OF_TRANSFORM} - {"kwargs"}
    if unknown := sorted(options.keys() - known):  # torchvision drops them without a word
        remedy = "use the arguments of torchvision's MaskRCNN"
        raise InputError(f"has no argument {', '.join(unknown)}", "detector", remedy)
    channels, strides = backbone.out_channels, backbone.strides
    hidden = 4 * channels if hidden is None else hidden
    anchors = AnchorGenerator(tuple((8 * s,) for s in strides), ((0.5, 1.0, 2.0),) * len(strides))

    def pool(side: int) -> MultiScaleRoIAlign:
        if aligned:
            return AlignedRoIAlign(ROI_LEVELS, strides, side)
        return MultiScaleRoIAlign(list(ROI_LEVELS), side, sampling_ratio=2)

    parts: dict[str, Any] = {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(channels, 3, conv_depth=rpn_convs),
        "box_roi_pool": pool(7),
        "box_head": FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [hidden], norm_layer=box_norm),
        "box_predictor": FastRCNNPredictor(hidden, num_classes + 1),
    }
    if masks:
        parts |= {
            "mask_roi_pool": pool(14),
            "mask_head": MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=mask_norm),
            "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes + 1),
        }
    sizes: dict[str, Any] = {
        "min_size": short_side,
        "max_size": long_side,
        "size_divisible": strides[len(ROI_LEVELS) - 1],
    }
    return (MaskRCNN if masks else FasterRCNN)(backbone, **sizes, **parts, **options)
