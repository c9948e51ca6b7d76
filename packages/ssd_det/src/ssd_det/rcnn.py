"""Second stage of Faster R-CNN: classify proposals and move them, with per-class offsets, background last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from vireo.engine.averages import mean_over_processes

from .assign import assign_by_iou, sample_matches
from .boxes import ROI_CORNER_STDS, ROI_STDS, BoxCoder, clip_boxes
from .draws import Draws
from .roi import TwoLayerMLP, roi_features


class RCNNHead(nn.Module):
    """Two fully connected layers, ``C + 1`` class logits (background last) and ``4 C`` class-major offsets.

    Args:
        num_classes: ``C``.
        in_channels, roi_size, strides: of the pyramid maps that are read.
        hidden: width of the layers.
        loss_weight: of both losses (4.0 in SSD-Det, 1.0 in plain Faster R-CNN).
        score_threshold: detections below are dropped.
        max_detections: kept per image.
        small_init: N(0, 0.01) and N(0, 0.001) for the two predictors instead of the Xavier rule that the authors' code
            applies to them.
        box_coder: see :class:`~ssd_det.boxes.BoxCoder`.

    Raises:
        InputError: for an unknown ``box_coder``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        hidden: int = 1024,
        roi_size: int = 7,
        strides: Sequence[int] = (4, 8, 16, 32),
        loss_weight: float = 4.0,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        samples_per_image: int = 512,
        small_init: bool = False,
        box_coder: Literal["delta", "corner"] = "delta",
    ) -> None:
        super().__init__()
        self.num_classes, self.roi_size, self.strides = num_classes, roi_size, tuple(strides)
        self.loss_weight, self.samples_per_image = loss_weight, samples_per_image
        self.score_threshold, self.nms_iou, self.max_detections = score_threshold, nms_iou, max_detections
        self.coder = BoxCoder(box_coder, ROI_STDS if box_coder == "delta" else ROI_CORNER_STDS)
        self.mlp = TwoLayerMLP(in_channels * roi_size**2, hidden)
        self.cls = nn.Linear(hidden, num_classes + 1)
        self.reg = nn.Linear(hidden, 4 * num_classes)
        for layer in (self.mlp.fc1, self.mlp.fc2, self.cls, self.reg):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        if small_init:
            nn.init.normal_(self.cls.weight, std=0.01)
            nn.init.normal_(self.reg.weight, std=0.001)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits ``(R, C + 1)`` and offsets ``(R, 4 C)``, float32, for the boxes of all images in order."""
        image = torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(boxes)])
        rois = roi_features(features[: len(self.strides)], torch.cat(list(boxes)), image, self.strides, self.roi_size)
        hidden = self.mlp(rois)
        return self.cls(hidden).float(), self.reg(hidden).float()

    @torch.no_grad()
    def sample(
        self, proposals: Sequence[Tensor], boxes: Sequence[Tensor], draws: Draws
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Rows to train on: the boxes themselves and proposals, 512 an image, at most a quarter of them positive.

        Returns:
            per image the sampled boxes ``(m, 4)`` and the index ``(m,)`` of the box each stands for, -1 for background.
        """
        rows = [torch.cat([b, p]) for b, p in zip(boxes, proposals)]
        most = max(len(r) for r in rows)
        match = rows[0].new_full((len(rows), most), -2, dtype=torch.long)
        for i, (p, b) in enumerate(zip(proposals, boxes)):
            own = torch.arange(len(b), device=b.device)
            match[i, : len(rows[i])] = torch.cat([own, assign_by_iou(p, b, 0.5, 0.5)])
        priority = draws("rcnn", len(rows), most, rows[0].device)
        positive, negative = sample_matches(match, self.samples_per_image, 0.25, priority)
        kept = positive | negative
        return [r[k[: len(r)]] for r, k in zip(rows, kept)], [m[k] for m, k in zip(match, kept)]

    def loss(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        draws: Draws,
    ) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_box`` for the targets ``boxes`` ``(n, 4)`` with ``labels`` ``(n,)`` of each image."""
        rows, match = self.sample(proposals, boxes, draws)
        logits, offsets = self(features, rows)
        return self.loss_of_samples(logits, offsets, rows, match, boxes, labels)

    def loss_of_samples(
        self,
        logits: Tensor,
        offsets: Tensor,
        rows: Sequence[Tensor],
        match: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """The losses of sampled rows, given the head's outputs for them."""
        matched = torch.cat(list(match))
        positive = matched >= 0
        label = torch.cat([lb[m[m >= 0]] for lb, m in zip(labels, match)])
        goal_class = matched.new_full(matched.shape, self.num_classes).masked_scatter(positive, label)
        (count,) = mean_over_processes(torch.as_tensor(float(max(1, len(matched))), device=logits.device))
        cls = F.cross_entropy(logits, goal_class, reduction="sum")

        goal = torch.cat([b[m[m >= 0]] for b, m in zip(boxes, match)])
        goal = self.coder.encode(torch.cat(list(rows))[positive], goal)
        own = self.offsets_of(offsets[positive], label)
        box = (own - goal).abs().sum()
        return {"loss_cls": self.loss_weight * cls / count, "loss_box": self.loss_weight * box / count}

    def offsets_of(self, offsets: Tensor, labels: Tensor) -> Tensor:
        """The offsets ``(R, 4)`` of one class ``(R,)`` each from all classes' ``(R, 4 C)``."""
        return offsets.unflatten(1, (self.num_classes, 4)).gather(1, labels[:, None, None].expand(-1, 1, 4))[:, 0]

    @torch.no_grad()
    def detect(
        self,
        logits: Tensor,
        offsets: Tensor,
        boxes: Sequence[Tensor],
        image_sizes: Tensor,
        scales: Tensor | None = None,
    ) -> list[dict[str, Tensor]]:
        """Detections from the head's outputs.

        Args:
            logits, offsets: for the rows of all images, see :meth:`forward`.
            boxes: the proposals of each image.
            image_sizes: ``(B, 2)`` sizes of the network's input images.
            scales: ``(B, 2)`` height and width factors that the input was resized by; boxes are divided by them.

        Returns:
            per image ``boxes`` ``(n, 4)``, ``scores`` ``(n,)``, ``labels`` ``(n,)``, best first, at most
            ``max_detections``.
        """
        counts = [len(b) for b in boxes]
        probs = logits.softmax(-1)[:, :-1].split(counts)
        deltas = offsets.unflatten(1, (self.num_classes, 4)).split(counts)
        found = []
        for i, (box, prob, delta) in enumerate(zip(boxes, probs, deltas)):
            size = image_sizes[i].to(box)
            decoded = clip_boxes(self.coder.decode(box[:, None], delta), size)
            if scales is not None:
                decoded = decoded / scales[i].to(box).flip(0).repeat(2)
            row, label = (prob > self.score_threshold).nonzero(as_tuple=True)
            score, kept = prob[row, label], decoded[row, label]
            best = batched_nms(kept, score, label, self.nms_iou)[: self.max_detections]
            found.append({"boxes": kept[best], "scores": score[best], "labels": label[best]})
        return found
