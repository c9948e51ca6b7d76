"""Backbone and pyramid of iTPN in detectron2: through its registry of backbones, and as a LazyConfig.

Importing this module registers ``build_itpn_backbone``; :func:`add_itpn_config` adds its settings to a config:

    cfg = get_cfg()
    add_itpn_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_itpn_backbone"
    cfg.MODEL.ITPN.WEIGHTS = "itpn-base-pixel.pth"

:func:`mask_rcnn` is the detector of the paper as a LazyConfig, for ``instantiate``. Either way the maps ``p2`` to
``p6`` are the pyramid's own, pre-trained with the backbone; no FPN comes on top. Rates that fall towards the input are
made by :func:`itpn.layer_decay.layer_decay_groups` on the whole detector.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from vireo.detection.detectron2 import explain_missing
from vireo.errors import InputError

from .features import iTPNFeatures
from .hivit import HiViT
from .neck import PyramidNeck
from .official import infer_fpn_depth, load_pyramid
from .sizes import itpn_backbone

try:
    from detectron2.config import CfgNode, LazyCall
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import BACKBONE_REGISTRY, Backbone
except ModuleNotFoundError as error:
    explain_missing("itpn.detectron2", error)

__all__ = ["PyramidBackbone", "add_itpn_config", "build_itpn_backbone", "mask_rcnn", "pyramid_backbone"]

NORM_EPS = 1e-5  # of the released detectors
PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # RGB
GIOU_WEIGHT = 10.0


class PyramidBackbone(Backbone):
    """Backbone and pyramid as detectron2 takes them: maps ``p2`` (stride 4) to ``p6`` (stride 64).

    Args:
        features: network of five maps of equal channels.
    """

    def __init__(self, features: iTPNFeatures) -> None:
        super().__init__()
        self.features = features
        self._out_features = [f"p{level + 2}" for level in range(features.num_outs)]
        self._out_feature_strides = dict(zip(self._out_features, features.strides))
        self._out_feature_channels = dict(zip(self._out_features, features.channels))

    @property
    def size_divisibility(self) -> int:
        """To what the sides of a batch are padded."""
        return 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, 3, H, W)`` to maps by name."""
        return dict(zip(self._out_features, self.features.maps(images)))


def pyramid_backbone(
    size: str = "itpn_base",
    *,
    fpn_dim: int = 256,
    fpn_depth: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    grad_checkpointing: bool = False,
    **options: Any,
) -> PyramidBackbone:
    """A backbone of detectron2, fresh or pre-trained.

    Args:
        size: of :data:`~itpn.sizes.SIZES`.
        fpn_dim: channels of the maps.
        fpn_depth: blocks of each step of the pyramid; None for those of the weights, else 1.
        weights: a checkpoint of ours or of the authors', of pre-training or of a detector.
        grad_checkpointing: recompute the blocks in the backward pass.
        **options: of :class:`~itpn.HiViT`, such as ``drop_path_rate``, ``rel_pos`` and ``init_values`` (0.1 where the
            weights are of a CLIP teacher).

    Raises:
        InputError: an unknown size or option, one of Fast-iTPN, or weights that do not fit.
    """
    backbone = itpn_backbone(size, **{"norm_eps": NORM_EPS, **options})
    if not isinstance(backbone, HiViT):
        raise InputError("no pyramid of Fast-iTPN was released", f"size {size}", "use a size of HiViT or iTPN")
    if fpn_depth is None:
        fpn_depth = 1 if weights is None else infer_fpn_depth(weights)
    neck = PyramidNeck(backbone.dims, fpn_dim, fpn_depth, norm_eps=NORM_EPS)
    if weights is not None:
        load_pyramid(backbone, neck, weights)
    backbone.set_grad_checkpointing(grad_checkpointing)
    return PyramidBackbone(iTPNFeatures(backbone, neck))


def add_itpn_config(cfg: CfgNode) -> None:
    """Add ``cfg.MODEL.ITPN``, and let the images be RGB, normalised as in the paper.

    Its keys: ``SIZE``, ``WEIGHTS``, ``FPN_DEPTH`` (0: that of the weights), ``DROP_PATH``, ``LAYER_SCALE`` (0 for none,
    0.1 for a CLIP teacher's), ``REL_POS`` and ``GRAD_CHECKPOINTING``.
    """
    cfg.MODEL.ITPN = CfgNode(
        {
            "SIZE": "itpn_base",
            "FPN_DEPTH": 0,
            "WEIGHTS": "",
            "DROP_PATH": 0.05,
            "LAYER_SCALE": 0.0,
            "REL_POS": "",
            "GRAD_CHECKPOINTING": False,
        }
    )
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT = list(PIXEL_MEAN), list(PIXEL_STD), "RGB"


@BACKBONE_REGISTRY.register()
def build_itpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PyramidBackbone:
    """The backbone of a config with ``MODEL.ITPN``."""
    node = cfg.MODEL.ITPN
    return pyramid_backbone(
        node.SIZE,
        fpn_depth=node.FPN_DEPTH or None,
        weights=node.WEIGHTS or None,
        grad_checkpointing=node.GRAD_CHECKPOINTING,
        drop_path_rate=node.DROP_PATH,
        init_values=node.LAYER_SCALE or None,
        rel_pos=node.REL_POS or None,
        in_chans=input_shape.channels,
    )


def mask_rcnn(size: str = "itpn_base", *, num_classes: int = 80, norm: str = "SyncBN", **options: Any) -> Any:
    """Mask R-CNN of the paper as a LazyConfig: four convolutions and a layer in the box head, GIoU loss (section 3.11).

    Args:
        size: of the backbone.
        num_classes: of the data.
        norm: of the box head's convolutions; ``BN`` on one device.
        **options: of :func:`pyramid_backbone`.

    Returns:
        A config for ``detectron2.config.instantiate``.
    """
    from detectron2 import model_zoo

    model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    model.backbone = LazyCall(pyramid_backbone)(size=size, **{"drop_path_rate": 0.05, **options})
    model.pixel_mean, model.pixel_std, model.input_format = list(PIXEL_MEAN), list(PIXEL_STD), "RGB"
    heads = model.roi_heads
    heads.num_classes = num_classes
    heads.box_head.conv_dims, heads.box_head.fc_dims, heads.box_head.conv_norm = [256] * 4, [1024], norm
    heads.box_predictor.box_reg_loss_type = "giou"
    heads.box_predictor.loss_weight = {"loss_box_reg": GIOU_WEIGHT}
    return model
