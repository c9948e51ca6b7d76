"""Mask R-CNN and Faster R-CNN over the maps of iTPN (sections 3.6 and 3.11), on torchvision's detectors.

The pyramid takes the place of an FPN. As in the authors' detectors, boxes are judged decoded, by their generalised IoU,
and the region proposal network by the plain distance of its deltas.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import generalized_box_iou_loss

from vireo.backbones import GlobalBatchNorm2d
from vireo.detection import GALLERY, LossHeads, has_masks, rcnn
from vireo.engine import plain
from vireo.engine.finished import load_finished
from vireo.report import write_run_report

from .downstream import build_features, complete_depth

SCRIPT = "itpn-detect"
PUBLISHED_DEPTH = 1  # blocks of a top-down step in the released detectors
GIOU_WEIGHT = 10.0


class GIoUHeads(LossHeads):
    """torchvision's heads with the generalised IoU of decoded boxes as their box loss, by the weight 10."""

    def _box_loss(self, deltas: Tensor, labels: Tensor, targets: Tensor, proposals: Tensor) -> Tensor:
        """Of the true class's boxes of objects, over the number of all sampled regions."""
        objects = torch.where(labels > 0)[0]
        chosen = deltas.unflatten(1, (-1, 4))[objects, labels[objects]]
        boxes, true = (self.box_coder.decode_single(d, proposals[objects]) for d in (chosen, targets[objects]))
        loss = generalized_box_iou_loss(boxes.float(), true.float(), reduction="sum")
        return GIOU_WEIGHT * loss / labels.numel()


class L1Proposals(RegionProposalNetwork):
    """torchvision's region proposal network with the distance of the deltas as its box loss."""

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss of objectness, and of boxes."""
        positive, negative = (torch.where(torch.cat(chosen))[0] for chosen in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        joined, targets = torch.cat(labels), torch.cat(regression_targets)
        distance = F.l1_loss(pred_bbox_deltas[positive], targets[positive], reduction="sum")
        objective = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], joined[sampled])
        return objective, distance / sampled.numel()


def build_detector(config: Any, num_classes: int, init: str | None = None) -> FasterRCNN:
    """The network of a configuration: Mask R-CNN, or Faster R-CNN where the data have no masks.

    Args:
        config: ``detector``, ``data``, and what :func:`~itpn.downstream.build_features` takes.
        num_classes: without background.
        init: a run's folder, or a checkpoint, ours or the authors'; None: fresh.

    Raises:
        InputError: what :func:`~itpn.downstream.build_features` raises.
    """
    features = build_features(config, init, PUBLISHED_DEPTH, num_outs=5, extra="avgpool")
    options = plain(config.detector)
    options["short_side"] = tuple(options["short_side"])
    detector = rcnn(
        features,
        num_classes,
        masks=has_masks(config.data),
        rpn_convs=1,
        box_norm=GlobalBatchNorm2d,
        mask_norm=None,
        aligned=True,
        **options,
    )
    detector.roi_heads.__class__ = GIoUHeads  # neither has a state of its own
    detector.rpn.__class__ = L1Proposals
    return detector


def load_detector(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> tuple[FasterRCNN, DictConfig, tuple[str, ...]]:
    """Network, configuration and classes of a run of ``itpn-detect``; in evaluation mode, on the CPU.

    Args:
        folder: of the run.
        weights: others of the same network.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.

    Raises:
        InputError: no such run, no weights in it, or weights that do not fit.
    """
    return load_finished(folder, SCRIPT, "detector", build_detector, weights, untrained, complete_depth)


def write_detection_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run from the files in its folder."""
    return write_run_report(folder, "Detection with iTPN", GALLERY, paper_metrics=paper_metrics)
