"""Weights of the detector under the names of torchvision's Faster R-CNN.

The networks are the same up to conventions that a state dict cannot carry: torchvision rounds its anchors, samples
boxes without the half-pixel shift (``aligned=False``), and its pyramid has no convolution for the extra level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_RENAMED = (
    (r"^backbone\.", "backbone.body."),
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"^neck\.lateral_convs\.(\d)\.gn\.", r"backbone.fpn.inner_blocks.\1.1."),
    (r"^neck\.fpn_convs\.4\.conv\.", "backbone.fpn.extra_blocks.p6.0."),
    (r"^neck\.fpn_convs\.4\.gn\.", "backbone.fpn.extra_blocks.p6.1."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"^neck\.fpn_convs\.(\d)\.gn\.", r"backbone.fpn.layer_blocks.\1.1."),
    (r"^rpn\.conv\.", "rpn.head.conv.0.0."),
    (r"^rpn\.cls\.", "rpn.head.cls_logits."),
    (r"^rpn\.reg\.", "rpn.head.bbox_pred."),
    (r"^rcnn\.mlp\.fc1\.", "roi_heads.box_head.fc6."),
    (r"^rcnn\.mlp\.fc2\.", "roi_heads.box_head.fc7."),
    (r"^rcnn\.cls\.", "roi_heads.box_predictor.cls_score."),
    (r"^rcnn\.reg\.", "roi_heads.box_predictor.bbox_pred."),
)


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of :class:`~ssd_det.model.SSDDet` in torchvision's layout; the refiner is left out.

    Background becomes class 0: its logit moves to the front, and its offsets, which we do not have, are zero. A plain
    pyramid (``neck_norm="none"``) loads strictly into ``fasterrcnn_resnet50_fpn``. The GroupNorm pyramid loads into one
    built with ``FeaturePyramidNetwork(norm_layer=partial(nn.GroupNorm, 32))`` and an own extra block named ``p6``.

    Args:
        state: ours, with ``C + 1`` class rows and ``4 C`` offset rows.

    Returns:
        ``C + 1`` class rows, background first, and ``4 (C + 1)`` offset rows.
    """
    converted = {}
    for name, value in state.items():
        if name.startswith("refiner.") or name.endswith("num_batches_tracked"):
            continue
        for ours, theirs in _RENAMED:
            renamed, changes = re.subn(ours, theirs, name)
            if changes:
                break
        else:
            raise KeyError(name)
        if name.startswith("rcnn.cls."):
            value = value.roll(1, 0)
        elif name.startswith("rcnn.reg."):
            value = torch.cat([value.new_zeros(4, *value.shape[1:]), value])
        converted[renamed] = value
    return converted
