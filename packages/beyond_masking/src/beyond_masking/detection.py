"""Transfer to detection and segmentation: torchvision's Mask R-CNN over a plain encoder and its simple feature pyramid.

The paper reports Mask R-CNN on COCO but not how; this is the usual protocol (Li et al., "Exploring Plain Vision
Transformer Backbones", ECCV 2022) with attention over all patches in every block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchvision.models.detection import MaskRCNN

from vireo.backbones import MaskedViT
from vireo.backbones.vit import ViTFeatures
from vireo.detection import PyramidBackbone, rcnn
from vireo.engine import layer_decay_groups, weight_decay_groups
from vireo.engine.checkpoint import read, state_dict_in
from vireo.engine.finished import initial_weights
from vireo.errors import InputError

from .build import load_encoder
from .official import encoder_state


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
    detector = rcnn(backbone, num_classes, short_side=short_side, long_side=long_side, **options)
    assert isinstance(detector, MaskRCNN)
    return detector


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
