"""SSD-Det: Faster R-CNN whose training targets are refined in the same step, and its plain baselines.

Source: Wu et al., ICCV 2023 (arXiv 2307.12101), section 3.1. At test time the refiner does not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vireo.backbones import FPN, pyramid_backbone
from vireo.engine.hub import Pretrained
from vireo.errors import InputError

from .boxes import elementwise_iou
from .draws import Draws, draws_for
from .rcnn import RCNNHead
from .refiner import BoxRefiner, Refinement
from .rpn import RegionProposalNetwork

STRIDES = (4, 8, 16, 32, 64)
Target = dict[str, Any]


class SSDDet(nn.Module, Pretrained):
    """A two-stage detector, trained on refined boxes if it has a refiner and on the given boxes if not.

    Args:
        backbone: timm name, or a module returning maps at strides 4, 8, 16 and 32 with ``feature_info.channels()``.
        num_classes: ``C``, without background.
        refiner: a :class:`BoxRefiner`, options for one that fits this detector (``{}``: the paper's), or None for the
            plain Faster R-CNN baseline.
        neck_norm: ``"gn"``: GroupNorm pyramid whose extra level is a convolution of C5 (SSD-Det);
            ``"none"``: plain pyramid with max-pooled extra level (the published baselines).
        fpn_channels: width of the pyramid and of the RPN.
        hidden: width of the R-CNN head.
        anchor_scale: anchor side in strides.
        loss_weight: of RPN objectness and of both R-CNN losses; 4.0 in SSD-Det, 1.0 in a plain Faster R-CNN.
        pretrained, norm, frozen_stages, backbone_weights, backbone_options: see ``vireo.backbones.pyramid_backbone``.
        rcnn_options: further arguments of :class:`RCNNHead`.
        rpn_options: further arguments of :class:`RegionProposalNetwork`.

    Raises:
        InputError: for an unknown backbone, ``neck_norm`` or other choice, or weights that cannot be loaded.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "resnet50",
        num_classes: int = 80,
        refiner: BoxRefiner | Mapping[str, Any] | None = MappingProxyType({}),
        neck_norm: Literal["gn", "none"] = "gn",
        fpn_channels: int = 256,
        hidden: int = 1024,
        roi_size: int = 7,
        anchor_scale: float = 8.0,
        loss_weight: float = 4.0,
        pretrained: bool = False,
        norm: Literal["fixed_bn", "bn", "gn"] = "fixed_bn",
        frozen_stages: int = 0,
        backbone_weights: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        rcnn_options: dict[str, Any] | None = None,
        rpn_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if neck_norm not in ("gn", "none"):
            raise InputError(f"unknown choice {neck_norm!r}", "model.neck_norm", "use gn or none")
        if isinstance(backbone, str):
            backbone = pyramid_backbone(
                backbone,
                pretrained=pretrained,
                norm=norm,
                frozen_stages=frozen_stages,
                strides=STRIDES[:-1],
                weights=backbone_weights,
                **(backbone_options or {}),
            )
        self.num_classes = num_classes
        self.backbone = backbone
        channels: list[int] = backbone.feature_info.channels()  # type: ignore[operator, union-attr]
        self.neck = FPN(channels, fpn_channels, neck_norm, extra="conv" if neck_norm == "gn" else "pool")
        self.rpn = RegionProposalNetwork(
            fpn_channels, STRIDES, anchor_scale, cls_weight=loss_weight, **(rpn_options or {})
        )
        self.rcnn = RCNNHead(
            num_classes, fpn_channels, hidden, roi_size, STRIDES[:-1], loss_weight, **(rcnn_options or {})
        )
        if isinstance(refiner, Mapping):
            shape = {"in_channels": fpn_channels, "hidden": hidden, "roi_size": roi_size, "strides": STRIDES[:-1]}
            refiner = BoxRefiner(num_classes, **{**shape, **refiner})
        self.refiner = refiner

    def forward(self, images: Tensor, targets: list[Target] | None = None) -> Any:
        """Losses when training, detections when evaluating.

        Args:
            images: ``(B, 3, H, W)`` normalised RGB, zero-padded to a common size (a multiple of 32).
            targets: per image ``boxes`` ``(n, 4)`` in pixels of ``images`` and ``labels`` ``(n,)`` in ``[0, C)``
                (training needs both), and optionally ``size`` ``(h, w)`` without padding (default: all of it),
                ``orig_size`` ``(h, w)`` of the file, ``iscrowd`` ``(n,)`` (left out of training), ``true_boxes``
                ``(n, 4)`` (monitoring only) and ``key`` (source of randomness, see :class:`~ssd_det.draws.KeyedDraws`).

        Returns:
            Training: weighted losses, ``loss_*``, to be summed, and detached ``stat_*`` values to be logged.
            Evaluation: per image ``boxes`` ``(m, 4)`` in pixels of the original file, ``scores``, ``labels``.
        """
        features = self.extract(images)
        if not self.training:
            return self.detect(features, *self._sizes(images, targets))
        if targets is None:
            raise ValueError("training needs targets: a list with boxes and labels of each image")
        return self.losses(features, targets, self._sizes(images, targets)[0])

    def extract(self, images: Tensor) -> list[Tensor]:
        """Pyramid maps at strides 4 to 64 of normalised images."""
        return self.neck(self.backbone(images))

    def losses(
        self,
        features: Sequence[Tensor],
        targets: list[Target],
        image_sizes: Tensor,
        draws: Draws | None = None,
        padded_sizes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """All losses of a training step from the pyramid maps; see :meth:`forward`."""
        draws = draws or draws_for(targets)
        kept = [_without_crowd(target, features[0].device) for target in targets]
        boxes, labels = [t["boxes"] for t in kept], [t["labels"] for t in kept]
        losses: dict[str, Tensor] = {}
        if self.refiner is not None:
            found, losses = self.refiner.run(features, boxes, labels, image_sizes, draws)
            refined = list(found.boxes.split([len(b) for b in boxes]))
            losses |= _monitor(found, kept)
        else:
            refined = boxes
        logits, offsets = self.rpn(features)
        losses |= self.rpn.loss(logits, offsets, refined, image_sizes, draws, padded_sizes)
        proposals = [b for b, _ in self.rpn.propose(logits, offsets, image_sizes, training=True)]
        return losses | self.rcnn_losses(features, proposals, refined, labels, draws)

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch of training, counted from 0; a hook for methods that change with it."""

    def rcnn_losses(
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        draws: Draws,
    ) -> dict[str, Tensor]:
        """Losses of the second stage; a hook for methods that change it."""
        return self.rcnn.loss(features, proposals, boxes, labels, draws)

    @torch.no_grad()
    def detect(
        self, features: Sequence[Tensor], image_sizes: Tensor, scales: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """Detections from the pyramid maps; boxes are divided by ``scales`` ``(B, 2)`` (height, width)."""
        logits, offsets = self.rpn(features)
        proposals = [b for b, _ in self.rpn.propose(logits, offsets, image_sizes, training=False)]
        cls, reg = self.rcnn(features, proposals)
        return self.rcnn.detect(cls, reg, proposals, image_sizes, scales)

    @torch.no_grad()
    def refine(self, images: Tensor, targets: list[Target]) -> list[dict[str, Tensor]]:
        """Refined ``boxes`` ``(n, 4)`` and ``scores`` ``(n,)`` for the targets' boxes, in pixels of ``images``.

        Crowd boxes are refined like all others: filter them before or after.
        """
        if self.refiner is None:
            raise ValueError("this detector has no refiner: build it with refiner={}")
        device = images.device
        boxes = [t["boxes"].to(device) for t in targets]
        labels = [t["labels"].to(device) for t in targets]
        sizes, _ = self._sizes(images, targets)
        refined, scores = self.refiner.refine(self.extract(images), boxes, labels, sizes)
        return [{"boxes": b, "scores": s} for b, s in zip(refined, scores)]

    def _sizes(self, images: Tensor, targets: list[Target] | None) -> tuple[Tensor, Tensor | None]:
        """Unpadded sizes ``(B, 2)`` and resize factors ``(B, 2)`` of the images, height first."""
        full = tuple(images.shape[-2:])
        sizes = [tuple(t.get("size", full)) for t in targets] if targets is not None else [full] * len(images)
        size = torch.tensor(sizes, dtype=torch.float32, device=images.device)
        if targets is None or not all("orig_size" in t for t in targets):
            return size, None
        original = torch.tensor([tuple(t["orig_size"]) for t in targets], dtype=torch.float32, device=images.device)
        return size, size / original


def _without_crowd(target: Target, device: torch.device) -> Target:
    """The entries of a target that training reads, crowd boxes left out, on the device."""
    names = [name for name in ("boxes", "labels", "true_boxes") if target.get(name) is not None]
    crowd = target.get("iscrowd")
    keep = slice(None) if crowd is None else ~torch.as_tensor(crowd, dtype=torch.bool)
    return {name: target[name].to(device)[keep if crowd is None else keep.to(device)] for name in names}  # type: ignore[union-attr]


@torch.no_grad()
def _monitor(found: Refinement, targets: list[Target]) -> dict[str, Tensor]:
    """Mean IoU with the true boxes before and after refinement, where the true boxes are known.

    A batch without boxes counts as 0: the entries must be the same on all processes.
    """
    if not all("true_boxes" in t for t in targets):
        return {}
    true = torch.cat([t["true_boxes"] for t in targets])
    compared = {
        "stat_iou_given": torch.cat([t["boxes"] for t in targets]),
        "stat_iou_stage1": found.stage1_boxes,
        "stat_iou_refined": found.boxes,
    }
    return {name: elementwise_iou(boxes, true).sum() / max(1, len(true)) for name, boxes in compared.items()}
