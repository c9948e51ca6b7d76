"""The box refiner inside detectron2's Faster R-CNN, through detectron2's registries.

Importing this module registers two classes; :func:`add_ssd_det_config` adds their settings to a config:

- ``cfg.MODEL.META_ARCHITECTURE = "SSDDetRCNN"``: the method of the paper. The refined boxes are the targets of both the
  RPN and the ROI heads of the same step. The ROI heads may be any of detectron2's (standard, cascade, with masks).
- ``cfg.MODEL.ROI_HEADS.NAME = "SSDDetROIHeads"`` with the architecture left as it is: the ROI heads alone learn from
  refined boxes; the RPN, which runs before them, still learns from the given ones.

Evaluation is detectron2's own: the refiner does not run. Classes, boxes and weights of a trained model outside
``refiner.*`` are those of the plain model. The refiner's random boxes come from torch's default generator.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vireo.detection.detectron2 import explain_missing
from vireo.errors import InputError

from .boxes import elementwise_iou
from .refiner import BoxRefiner

try:
    from detectron2.config import CfgNode, configurable
    from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN, StandardROIHeads
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import get_event_storage, has_event_storage
except ModuleNotFoundError as error:
    explain_missing("ssd_det.detectron2", error)

__all__ = ["SSDDetRCNN", "SSDDetROIHeads", "add_ssd_det_config", "build_refiner", "refine_targets"]

_FROM_DETECTOR = ("self", "num_classes", "in_channels", "strides")  # arguments that the detector's config decides
_WEIGHTED_LOSSES = ("loss_rpn_cls", "loss_cls", "loss_box_reg")  # beginnings: cascade heads append their stage


def add_ssd_det_config(cfg: CfgNode) -> None:
    """Add ``cfg.MODEL.SSD_DET`` with the paper's settings for COCO.

    Its keys are the arguments of :class:`~ssd_det.refiner.BoxRefiner` in upper case (``RATIOS``, ``SHAKES``, ``TOP_K``,
    ``SPSD``, ``SISD``, ``HIDDEN``, ...; number of classes and feature maps are those of ``MODEL.ROI_HEADS``) and
    ``LOSS_WEIGHT``: factor of the RPN's objectness and of the box head's two losses, 4.0 as in
    :class:`~ssd_det.model.SSDDet`.
    """
    parameters = inspect.signature(BoxRefiner.__init__).parameters
    cfg.MODEL.SSD_DET = CfgNode({n.upper(): p.default for n, p in parameters.items() if n not in _FROM_DETECTOR})
    cfg.MODEL.SSD_DET.LOSS_WEIGHT = 4.0


def build_refiner(cfg: CfgNode, input_shape: Mapping[str, Any]) -> BoxRefiner:
    """The refiner of a config, reading the same feature maps as the ROI heads.

    Args:
        cfg: a config with ``MODEL.SSD_DET``.
        input_shape: ``ShapeSpec`` of each map of the backbone.

    Raises:
        InputError: ``MODEL.SSD_DET`` is missing, or the maps differ in their number of channels.
    """
    if "SSD_DET" not in cfg.MODEL:
        raise InputError("the config has no MODEL.SSD_DET", "cfg", "call ssd_det.detectron2.add_ssd_det_config(cfg)")
    names = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    channels = {name: input_shape[name].channels for name in names}
    if len(set(channels.values())) != 1:
        raise InputError(
            f"the refiner reads maps of one width, these have {channels} channels",
            "cfg.MODEL.ROI_HEADS.IN_FEATURES",
            "use a backbone with a feature pyramid, or a single map",
        )
    options = {key.lower(): value for key, value in cfg.MODEL.SSD_DET.items() if key != "LOSS_WEIGHT"}
    return BoxRefiner(
        cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        in_channels=channels[names[0]],
        strides=[input_shape[name].stride for name in names],
        **options,
    )


def refine_targets(
    refiner: BoxRefiner,
    features: Sequence[Tensor],
    targets: Sequence[Instances],
    image_sizes: Sequence[tuple[int, int]],
) -> tuple[list[Instances], dict[str, Tensor]]:
    """Copies of the targets with refined ``gt_boxes``, and the refiner's weighted losses.

    Args:
        refiner: called on all images at once.
        features: the maps it reads, finest first.
        targets: per image ``gt_boxes`` and ``gt_classes``; every other field is kept. Optional fields: ``gt_iscrowd``
            (bool; crowds leave the targets, as detectron2's own mapper does with them) and ``gt_true_boxes`` (known
            true boxes: the mean IoU with them before and after goes to the event storage as ``ssd_det/iou_given`` and
            ``ssd_det/iou_refined``). Instances of a negative class, which ROI heads ignore, keep their boxes.
        image_sizes: height and width of each image without padding.
    """
    kept = [t[~t.gt_iscrowd.bool()] if t.has("gt_iscrowd") else t for t in targets]
    known = [t.gt_classes >= 0 for t in kept]
    boxes = [t.gt_boxes.tensor[k] for t, k in zip(kept, known)]
    found, _, losses = refiner(features, boxes, [t.gt_classes[k] for t, k in zip(kept, known)], image_sizes)
    refined = []
    for given, k, new in zip(kept, known, found):
        copy = Instances(given.image_size, **given.get_fields())
        copy.gt_boxes = Boxes(given.gt_boxes.tensor.masked_scatter(k[:, None], new))
        refined.append(copy)
    _monitor(kept, refined)
    return refined, losses


@torch.no_grad()
def _monitor(given: Sequence[Instances], refined: Sequence[Instances]) -> None:
    """Log the mean IoU with the true boxes, where these and an event storage exist."""
    pairs = [(g, r) for g, r in zip(given, refined) if g.has("gt_true_boxes") and len(g)]
    if not pairs or not has_event_storage():
        return
    true = torch.cat([_tensor(g.gt_true_boxes) for g, _ in pairs])
    for name, boxes in (("given", [g for g, _ in pairs]), ("refined", [r for _, r in pairs])):
        iou = elementwise_iou(torch.cat([b.gt_boxes.tensor for b in boxes]), true)
        get_event_storage().put_scalar(f"ssd_det/iou_{name}", iou.mean().item())


def _tensor(boxes: Boxes | Tensor) -> Tensor:
    return boxes if isinstance(boxes, Tensor) else boxes.tensor


def _weighted(losses: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    return {name: loss * weight if name.startswith(_WEIGHTED_LOSSES) else loss for name, loss in losses.items()}


@ROI_HEADS_REGISTRY.register()
class SSDDetROIHeads(StandardROIHeads):
    """Standard ROI heads that learn from refined boxes; the RPN before them does not (see :class:`SSDDetRCNN`).

    Args:
        refiner: reads the maps ``box_in_features``.
        loss_weight: factor of the box head's two losses.
        kwargs: of ``StandardROIHeads``.
    """

    @configurable
    def __init__(self, *, refiner: BoxRefiner, loss_weight: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.refiner, self.loss_weight = refiner, loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        refiner = build_refiner(cfg, input_shape)
        options = super().from_config(cfg, input_shape)
        return {**options, "refiner": refiner, "loss_weight": cfg.MODEL.SSD_DET.LOSS_WEIGHT}

    def forward(
        self,
        images: Any,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As ``StandardROIHeads.forward``; in training on refined targets and with the refiner's losses."""
        if not self.training or targets is None:
            return super().forward(images, features, proposals, targets)
        maps = [features[name] for name in self.box_in_features]
        refined, losses = refine_targets(self.refiner, maps, targets, images.image_sizes)
        proposals, own = super().forward(images, features, proposals, refined)
        return proposals, losses | _weighted(own, self.loss_weight)


@META_ARCH_REGISTRY.register()
class SSDDetRCNN(GeneralizedRCNN):
    """Faster R-CNN whose RPN and ROI heads learn from boxes refined in the same step.

    Args:
        refiner: shares the backbone's maps with the detector.
        refiner_in_features: names of the maps it reads, finest first.
        loss_weight: factor of the RPN's objectness loss and of the box head's two losses.
        kwargs: of ``GeneralizedRCNN``.

    Raises:
        InputError: the ROI heads are :class:`SSDDetROIHeads`, which would refine a second time.
    """

    @configurable
    def __init__(
        self, *, refiner: BoxRefiner, refiner_in_features: Sequence[str], loss_weight: float = 4.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(self.roi_heads, SSDDetROIHeads):
            raise InputError(
                "SSDDetRCNN and SSDDetROIHeads would refine the boxes twice",
                "cfg.MODEL.ROI_HEADS.NAME",
                "use StandardROIHeads with SSDDetRCNN, or GeneralizedRCNN with SSDDetROIHeads",
            )
        self.refiner, self.refiner_in_features = refiner, tuple(refiner_in_features)
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        options = super().from_config(cfg)
        return {
            **options,
            "refiner": build_refiner(cfg, options["backbone"].output_shape()),
            "refiner_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "loss_weight": cfg.MODEL.SSD_DET.LOSS_WEIGHT,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """As ``GeneralizedRCNN.forward``: losses in training, ``{"instances": ...}`` of each image otherwise."""
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        given = [x["instances"].to(self.device) for x in batched_inputs]
        maps = [features[name] for name in self.refiner_in_features]
        targets, losses = refine_targets(self.refiner, maps, given, images.image_sizes)

        rpn_losses: dict[str, Tensor] = {}
        if self.proposal_generator is not None:
            proposals, rpn_losses = self.proposal_generator(images, features, targets)
        else:
            proposals = [x["proposals"].to(self.device) for x in batched_inputs]
        _, head_losses = self.roi_heads(images, features, proposals, targets)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return losses | _weighted(rpn_losses | head_losses, self.loss_weight)
