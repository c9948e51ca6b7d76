"""torchvision's heads of regions with other losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes


class LossHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's heads, whose box loss and mask targets a subclass chooses; without state of its own.

    ``detector.roi_heads.__class__ = ...`` gives a detector of torchvision the losses of a subclass.
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's: detections in evaluation, losses in training."""
        if not self.training:
            found: tuple[list[dict[str, Tensor]], dict[str, Tensor]]
            found = super().forward(features, proposals, image_shapes, targets)
            return found
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
            losses["loss_mask"] = self._mask_loss(masks, regions, matches, targets)
        return [], losses

    def _box_loss(self, deltas: Tensor, labels: Tensor, targets: Tensor, proposals: Tensor) -> Tensor:
        """Loss of the boxes of all sampled regions.

        Args:
            deltas: predicted, ``(R, 4 classes)`` with the background's first.
            labels: of the regions, 0 for background.
            targets: the deltas of the true boxes, ``(R, 4)``.
            proposals: the regions, xyxy.
        """
        raise NotImplementedError

    def _mask_targets(self, masks: Tensor, regions: Tensor, matches: Tensor, side: int) -> Tensor:
        """Masks ``(n, H, W)`` of an image inside regions ``(R, 4)``, of which ``matches`` says the mask of each:
        ``(R, side, side)``; torchvision's, which are soft at the edges.
        """
        wanted: Tensor = project_masks_on_boxes(masks, regions, matches, side)
        return wanted

    def _mask_loss(
        self, logits: Tensor, regions: list[Tensor], matches: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> Tensor:
        side = logits.shape[-1]
        labels = torch.cat([target["labels"][match] for target, match in zip(targets, matches)])
        wanted = torch.cat(
            [self._mask_targets(t["masks"], boxes, match, side) for t, boxes, match in zip(targets, regions, matches)]
        )
        if not len(wanted):
            return logits.sum() * 0
        return F.binary_cross_entropy_with_logits(
            logits[torch.arange(len(labels), device=labels.device), labels], wanted
        )
