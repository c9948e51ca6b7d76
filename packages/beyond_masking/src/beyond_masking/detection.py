"""Transfer to detection and segmentation: torchvision's Mask R-CNN over a plain encoder and its simple feature pyramid.

The paper reports Mask R-CNN on COCO but not how; this is the usual protocol (Li et al., "Exploring Plain Vision
Transformer Backbones", ECCV 2022) with attention over all patches in every block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from vireo.backbones import MaskedViT
from vireo.backbones.vit import ViTFeatures
from vireo.data import DetectionDataset
from vireo.engine import layer_decay_groups, weight_decay_groups
from vireo.engine.checkpoint import read, state_dict_in
from vireo.engine.finished import initial_weights
from vireo.errors import InputError

from .build import load_encoder
from .official import encoder_state

MASK_THRESHOLD = 0.5


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


def mask_rcnn(
    encoder: str,
    num_classes: int,
    *,
    init: str | None = None,
    patch_embed: str = "strict",
    encoder_options: Mapping[str, Any] | None = None,
    channels: int = 256,
    short_side: int | tuple[int, ...] = 800,
    long_side: int = 1333,
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN over a plain transformer.

    Two convolutions in the region proposal network, four and a linear layer for boxes, four for masks; LayerNorm behind
    those of the heads. Box sides of 8 strides are the anchors of a map. Images are given in [0, 1] and resized inside;
    class 0 is the background.

    Args:
        encoder: timm name, e.g. ``beyond_masking_vit_base``.
        num_classes: without background.
        init: where the encoder starts: a run's folder, or a checkpoint, ours, the authors' or MAE's. None: fresh.
        patch_embed: for an encoder of gray images; see :func:`~beyond_masking.load_pretrained_encoder`.
        encoder_options: for timm, e.g. ``img_size`` (that of the pre-training) and ``drop_path_rate``.
        channels: of the pyramid and the heads.
        short_side: of an image in pixels; of several, training draws one and evaluation takes the last.
        long_side: at most.
        **options: of torchvision's ``MaskRCNN``, e.g. ``box_score_thresh``.

    Raises:
        InputError: an unknown encoder, or a checkpoint that does not fit it.
    """
    features = ViTFeatures(encoder, out_channels=channels, **dict(encoder_options or {}))
    if init is not None:
        load_body(features, init, patch_embed)
    backbone = PyramidBackbone(features)
    names = ["0", "1", "2", "3"]
    anchors = AnchorGenerator(tuple((8 * s,) for s in backbone.strides), ((0.5, 1.0, 2.0),) * len(backbone.strides))
    hidden = 4 * channels
    return MaskRCNN(
        backbone,
        min_size=short_side,
        max_size=long_side,
        size_divisible=features.strides[-1],
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, 3, conv_depth=2),
        box_roi_pool=MultiScaleRoIAlign(names, 7, sampling_ratio=2),
        box_head=FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [hidden], norm_layer=LayerNorm2d),
        box_predictor=FastRCNNPredictor(hidden, num_classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(names, 14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=LayerNorm2d),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
        **options,
    )


def load_body(features: ViTFeatures, path: str, patch_embed: str = "strict") -> None:
    """Start a detector's transformer from a pre-training; see :func:`mask_rcnn`.

    Raises:
        InputError: the checkpoint cannot be read or does not fit.
    """
    if isinstance(features.body, MaskedViT):
        load_encoder(features.body, path, patch_embed)
        return
    file = initial_weights(path)
    try:
        features.load_body(encoder_state(state_dict_in(read(file), path)))
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise InputError(f"the checkpoint does not fit the encoder ({detail})", path, "use its own encoder") from error


def detector_groups(model: MaskRCNN, weight_decay: float, layer_decay: float, lr: float) -> list[dict[str, Any]]:
    """Parameter groups: the heads and the pyramid at ``lr``, the transformer with a rate that falls towards the input.

    Returns:
        Groups of an optimizer, one at the full rate first.
    """
    body = layer_decay_groups(model.backbone.features.body, weight_decay, layer_decay, lr=lr)
    placed = {id(parameter) for group in body for parameter in group["params"]}
    groups = weight_decay_groups(model, weight_decay, lr)
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in placed]} for group in groups]
    return [group for group in (*rest, *body) if group["params"]]


def training_targets(targets: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """Targets of vireo's data sets as torchvision's detectors want them: no crowds, classes from 1.

    Raises:
        InputError: a target without masks.
    """
    wanted = []
    for target in targets:
        if "masks" not in target:
            remedy = "read the data with masks=True"
            raise InputError("the annotations have no masks", f"image {target['image_id']}", remedy)
        kept = ~target["iscrowd"]
        labels = target["labels"][kept] + 1
        wanted.append({"boxes": target["boxes"][kept], "labels": labels, "masks": target["masks"][kept]})
    return wanted


@torch.no_grad()
def predictions_of(model: MaskRCNN, images: list[Tensor], targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Detections for :func:`vireo.evaluation.evaluate_coco`, in pixels of the given images; masks as run lengths."""
    found = []
    for target, detected in zip(targets, model(images)):
        masks = (detected["masks"][:, 0] > MASK_THRESHOLD).byte().cpu().numpy()
        found.append(
            {
                "image_id": int(target["image_id"]),
                "boxes": detected["boxes"].cpu(),
                "scores": detected["scores"].cpu(),
                "labels": detected["labels"].cpu() - 1,
                "masks": run_lengths(masks),
            }
        )
    return found


def run_lengths(masks: np.ndarray) -> list[dict[str, Any]]:
    """COCO run lengths of uint8 masks ``(n, H, W)``."""
    from faster_coco_eval import mask as coco_mask

    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0))) if len(masks) else []


def ground_truth(dataset: DetectionDataset) -> dict[str, Any]:
    """The annotations of a data set with a ``segmentation`` each; drawn from its masks where it knows no outlines.

    Raises:
        InputError: it has neither.
    """
    truth = dataset.coco()
    if all("segmentation" in annotation for annotation in truth["annotations"]):
        return truth
    drawn: list[dict[str, Any]] = []
    for index, record in enumerate(dataset.records):
        masks = dataset.load_masks(index)
        if masks is None:
            raise InputError("the annotations have no masks", record.file_name, "read the data with masks=True")
        drawn += run_lengths(masks.numpy())
    annotations = [{**a, "segmentation": outline} for a, outline in zip(truth["annotations"], drawn, strict=True)]
    return {**truth, "annotations": annotations}
