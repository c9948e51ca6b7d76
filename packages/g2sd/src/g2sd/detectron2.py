"""ViTDet of G2SD in detectron2: the backbone through its registry, student and teacher as LazyConfigs.

Importing this module registers ``build_g2sd_vitdet_backbone``; :func:`add_g2sd_config` adds its settings to a config:

    cfg = get_cfg()
    add_g2sd_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_g2sd_vitdet_backbone"
    cfg.MODEL.G2SD.INIT = "vit_s_gd.pth"

:func:`mask_rcnn` is the detector of the paper as a LazyConfig, :func:`distilled_mask_rcnn` the same with a teacher, for
``instantiate``. What belongs to the imitation is in the model's parameters and goes to its optimizer; the teacher is
not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vireo.detection.detectron2 import explain_missing
from vireo.engine.checkpoint import fit_state_dict

from .detector import CHANNELS
from .distilled_detector import PyramidAnswer
from .imitation import ObjectnessWeightedImitation
from .official import load_encoder
from .official_detector import official_name, read_detector
from .sizes import encoder_options
from .teacher import FrozenTeacher
from .vitdet import ViTDet, ViTDetPyramid

try:
    from detectron2.config import CfgNode, LazyCall
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import BACKBONE_REGISTRY, Backbone
    from detectron2.utils.events import get_event_storage
except ModuleNotFoundError as error:
    explain_missing("g2sd.detectron2", error)

__all__ = [
    "DistilledRCNN",
    "VitdetBackbone",
    "add_g2sd_config",
    "build_g2sd_vitdet_backbone",
    "distilled_mask_rcnn",
    "load_weights",
    "mask_rcnn",
    "vitdet_backbone",
]

PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # RGB
LEVELS = ("p2", "p3", "p4", "p5", "p6")


class VitdetBackbone(Backbone):
    """Transformer and pyramid as detectron2 takes them: maps ``p2`` (stride 4) to ``p6`` (stride 64).

    Args:
        features: the network.
    """

    def __init__(self, features: ViTDetPyramid) -> None:
        super().__init__()
        self.features = features
        self._out_features = list(LEVELS)
        self._out_feature_strides = dict(zip(LEVELS, features.strides))
        self._out_feature_channels = dict.fromkeys(LEVELS, features.out_channels)

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Images are padded to a square."""
        return {"size_divisibility": self.features.strides[-2], "square_size": self.features.body.img_size}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, 3, S, S)`` to maps by name."""
        return dict(zip(LEVELS, self.features(images).values()))


def vitdet_backbone(
    size: str = "vit_small",
    *,
    init: str | os.PathLike[str] | None = None,
    channels: int = CHANNELS,
    **options: Any,
) -> VitdetBackbone:
    """A backbone of detectron2.

    Args:
        size: of :data:`~g2sd.sizes.ENCODERS`.
        init: an encoder to start from, of any layout; None: fresh.
        channels: of the maps.
        **options: of :class:`~g2sd.vitdet.ViTDet`, such as ``img_size`` and ``drop_path_rate``.

    Raises:
        InputError: an unknown size, sizes that do not fit each other, or an encoder that does not fit.
    """
    body = ViTDet(**encoder_options(size, **options))
    if init is not None:
        load_encoder(body, init, fresh=("rel_pos_",))
    return VitdetBackbone(ViTDetPyramid(body, channels))


def add_g2sd_config(cfg: CfgNode) -> None:
    """Add ``cfg.MODEL.G2SD``, and let the images be RGB, normalised as in the paper.

    Its keys: ``SIZE``, ``INIT`` (an encoder, or empty), ``IMG_SIZE``, ``DROP_PATH`` and ``GRAD_CHECKPOINTING``.
    """
    node = {"SIZE": "vit_small", "INIT": "", "IMG_SIZE": 1024, "DROP_PATH": 0.1, "GRAD_CHECKPOINTING": False}
    cfg.MODEL.G2SD = CfgNode(node)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT = list(PIXEL_MEAN), list(PIXEL_STD), "RGB"


@BACKBONE_REGISTRY.register()
def build_g2sd_vitdet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> VitdetBackbone:
    """The backbone of a config with ``MODEL.G2SD``."""
    node = cfg.MODEL.G2SD
    return vitdet_backbone(
        node.SIZE,
        init=node.INIT or None,
        img_size=node.IMG_SIZE,
        drop_path_rate=node.DROP_PATH,
        grad_checkpointing=node.GRAD_CHECKPOINTING,
    )


def mask_rcnn(size: str = "vit_small", *, num_classes: int = 80, channels: int = CHANNELS, **options: Any) -> Any:
    """ViTDet's Mask R-CNN as a LazyConfig: that of detectron2's model zoo over this backbone (section 3.6).

    Args:
        size: of :data:`~g2sd.sizes.ENCODERS`.
        num_classes: of the data.
        channels: of pyramid and heads.
        **options: of :func:`vitdet_backbone`.

    Returns:
        A config for ``detectron2.config.instantiate``.
    """
    from detectron2 import model_zoo

    model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
    model.backbone = LazyCall(vitdet_backbone)(size=size, channels=channels, **{"drop_path_rate": 0.1, **options})
    model.pixel_mean, model.pixel_std, model.input_format = list(PIXEL_MEAN), list(PIXEL_STD), "RGB"
    model.proposal_generator.head.in_channels = channels
    heads = model.roi_heads
    heads.num_classes = num_classes
    heads.box_head.input_shape.channels = heads.mask_head.input_shape.channels = channels
    heads.box_head.conv_dims, heads.mask_head.conv_dims = [channels] * 4, [channels] * 5
    return model


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a detector into an instance of :func:`mask_rcnn`, strictly; convolutions of an imitation are left out.

    Args:
        model: receives the weights in place.
        path: folder of a run of ``g2sd-detect``, or a file, ours or in the authors' layout.

    Raises:
        InputError: a file that is refused or no detector's, or weights that do not fit.
    """
    state = {_here(key): value for key, value in read_detector(path).items() if not key.startswith("imitation.")}
    fit_state_dict(model, state, str(path))


def _here(key: str) -> str:
    """Ours but for the backbone, the names are detectron2's."""
    ours = key.removeprefix("detector.")
    return ours.replace("backbone.", "backbone.features.", 1) if ours.startswith("backbone.") else official_name(key)


class _Answering(nn.Module):
    """What is asked of a teacher: its maps and the objectness of their places."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.proposal_generator.rpn_head

    def forward(self, images: Tensor) -> PyramidAnswer:
        maps = self.backbone(images)
        features = tuple(maps[level] for level in LEVELS)
        objectness, _ = self.head(list(features))
        return PyramidAnswer(features, tuple(objectness))


class DistilledRCNN(nn.Module):
    """A detector of detectron2 that imitates another in training (section 3.6), and is itself in evaluation.

    The teacher is frozen, in evaluation mode, and no part of ``parameters()`` and ``state_dict()``; ``to()`` moves it.

    Args:
        student: a Mask R-CNN over ViTDet, such as :func:`mask_rcnn`.
        teacher: one of the same pyramid; detectron2's own does as well.
        teacher_weights: for a teacher of :func:`mask_rcnn`; None where it has them already.
        precision: of the teacher; see :class:`~g2sd.FrozenTeacher`.
        **imitation: weights and warm-up of :class:`~g2sd.imitation.ObjectnessWeightedImitation`.
    """

    def __init__(
        self,
        student: Any,
        teacher: nn.Module,
        teacher_weights: str | os.PathLike[str] | None = None,
        precision: str = "auto",
        **imitation: Any,
    ) -> None:
        super().__init__()
        if teacher_weights is not None:
            load_weights(teacher, teacher_weights)
        self.student = student
        channels = student.backbone.output_shape()[LEVELS[0]].channels
        self.imitation = ObjectnessWeightedImitation(channels, len(LEVELS), **imitation)
        self._teacher = [FrozenTeacher(_Answering(teacher), precision)]  # in a list: no submodule

    def _apply(self, fn: Any, recurse: bool = True) -> DistilledRCNN:
        self._teacher[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, batched_inputs: list[Mapping[str, Any]]) -> Any:
        """As of ``GeneralizedRCNN``: losses in training, with two of the imitation, else detections."""
        if not self.training:
            return self.student(batched_inputs)
        student = self.student
        images = student.preprocess_image(batched_inputs)
        truth = [entry["instances"].to(images.tensor.device) for entry in batched_inputs]
        features = student.backbone(images.tensor)
        answers: list[Any] = []
        handle = student.proposal_generator.rpn_head.register_forward_hook(lambda *call: answers.append(call[2][0]))
        try:
            proposals, losses = student.proposal_generator(images, features, truth)
        finally:
            handle.remove()
        _, of_regions = student.roi_heads(images, features, proposals, truth)
        with torch.no_grad():
            teacher = self._teacher[0](images.tensor)
        maps = [features[level] for level in LEVELS]
        found = self.imitation(maps, teacher.features, answers[0], teacher.objectness, get_event_storage().iter)
        imitated = {"loss_imitation_features": found.features, "loss_imitation_objectness": found.objectness}
        return {**of_regions, **losses, **imitated}


def distilled_mask_rcnn(
    student: str = "vit_small",
    teacher: str = "vit_base",
    *,
    teacher_weights: str | os.PathLike[str] | None = None,
    num_classes: int = 80,
    init: str | os.PathLike[str] | None = None,
    imitation: Mapping[str, Any] | None = None,
    teacher_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Student and teacher as a LazyConfig of :class:`DistilledRCNN`.

    Args:
        student, teacher: sizes.
        teacher_weights: of the teacher; see :func:`load_weights`.
        num_classes: of the data.
        init: the encoder that the student starts from.
        imitation: weights and warm-up; published by default.
        teacher_options: of the teacher's transformer, where they are not the student's.
        **options: of :func:`vitdet_backbone`.
    """
    common = {key: value for key, value in options.items() if key in ("img_size", "channels")}
    return LazyCall(DistilledRCNN)(
        student=mask_rcnn(student, num_classes=num_classes, init=init, **options),
        teacher=mask_rcnn(teacher, num_classes=num_classes, **{**common, **(teacher_options or {})}),
        teacher_weights=teacher_weights,
        **dict(imitation or {}),
    )
