"""Mask R-CNN and Faster R-CNN over the maps of iTPN (sections 3.6 and 3.11), on torchvision's detectors.

The pyramid takes the place of an FPN. As in the authors' detectors, boxes are judged decoded, by their generalised IoU,
and the region proposal network by the plain distance of its deltas.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import generalized_box_iou_loss

from vireo.backbones import GlobalBatchNorm2d
from vireo.data import DetectionDataset
from vireo.detection import build_loader, has_masks, rcnn
from vireo.detection.evaluate import MASK_THRESHOLD
from vireo.engine import plain
from vireo.engine.finished import load_finished
from vireo.report import draw_detections, grid, write_picture, write_run_report

from .downstream import build_features, complete_depth

SCRIPT = "itpn-detect"
PUBLISHED_DEPTH = 1  # blocks of a top-down step in the released detectors
GIOU_WEIGHT = 10.0
SCORE_SHOWN = 0.5  # of detections in the report


class GIoUHeads(RoIHeads):
    """torchvision's heads with the generalised IoU of decoded boxes as their box loss, by the weight 10."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's: detections in evaluation, losses in training."""
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        assert targets is not None, "training needs targets"
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, deltas = self.box_predictor(pooled)
        joined = torch.cat(labels)
        losses = {
            "loss_classifier": F.cross_entropy(logits, joined),
            "loss_box_reg": self._box_loss(deltas, joined, torch.cat(regression_targets), torch.cat(proposals)),
        }
        if self.has_mask():
            positive = [torch.where(found > 0)[0] for found in labels]
            regions = [boxes[kept] for boxes, kept in zip(proposals, positive)]
            matches = [match[kept] for match, kept in zip(matched, positive)]
            masks = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, regions, image_shapes)))
            truth = ([target[name] for target in targets] for name in ("masks", "labels"))
            losses["loss_mask"] = maskrcnn_loss(masks, regions, *truth, matches)
        return [], losses

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


@torch.no_grad()
def write_gallery(model: nn.Module, dataset: DetectionDataset, config: Any, folder: Path, device: Any) -> None:
    """``gallery/detections_*.png``: truth and detections of some evaluation images."""
    kept = [record for record in dataset.records if len(record)]
    count = min(config.gallery_images, len(kept))
    if not count:
        return
    chosen = dataset.with_records([kept[i] for i in np.linspace(0, len(kept) - 1, count).astype(int)])
    loader = build_loader(chosen, config.data, False, device=device, rank=0, world_size=1, seed=0)
    model.eval()
    number = 0
    for images, _ in loader.batches(0):
        for found in model(images):
            picture, truth = chosen[number]
            sure = found["scores"] >= SCORE_SHOWN
            boxes, labels, scores = (found[name][sure].cpu() for name in ("boxes", "labels", "scores"))
            masks = found["masks"][sure, 0].cpu() > MASK_THRESHOLD if "masks" in found else None
            options: dict[str, Any] = {"classes": dataset.classes}
            cells = [
                draw_detections(picture, truth["boxes"], truth["labels"], masks=truth.get("masks"), **options),
                draw_detections(picture, boxes, labels - 1, scores, masks=masks, **options),
            ]
            panel = grid(cells, 2, ["truth", f"detections (score >= {SCORE_SHOWN})"])
            write_picture(folder / "gallery" / f"detections_{number:02d}.png", panel)
            number += 1


def write_detection_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run from the files in its folder."""
    pictures = {"Evaluation images: truth and detections": "detections_*.png"}
    return write_run_report(folder, "Detection with iTPN", pictures, paper_metrics=paper_metrics)
