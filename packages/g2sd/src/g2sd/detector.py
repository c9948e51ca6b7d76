"""ViTDet's Mask R-CNN on torchvision's detectors, with detectron2's numbers (section 3.6).

Also Faster R-CNN, for data without masks. What differs from torchvision: anchors are not rounded, box losses are plain
distances over fixed normalisers, weights have no rows for the background, masks in regions are hard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import roi_align

from vireo.detection import rcnn
from vireo.detection.heads import LossHeads

from .vitdet import ViTDet, ViTDetPyramid

CHANNELS = 256  # of the published pyramid and heads

Targets = list[dict[str, Tensor]]


class ExactAnchors(AnchorGenerator):
    """torchvision's anchors, of which sizes are not rounded."""

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Boxes xyxy around the origin, ``(sizes * ratios, 4)``; a ratio is height over width."""
        sizes = torch.tensor([float(s) for s in scales], dtype=dtype, device=device)
        ratios = torch.tensor([float(r) for r in aspect_ratios], dtype=dtype, device=device)
        widths, heights = (torch.outer(factor, sizes).flatten() for factor in (ratios.rsqrt(), ratios.sqrt()))
        return torch.stack((-widths, -heights, widths, heights), 1) / 2


class Proposals(NamedTuple):
    """What the region proposal network makes of a batch.

    Attributes:
        boxes: of each image, xyxy.
        losses: in training; else empty.
        objectness: logits ``(B, 3, H, W)`` of each level.
    """

    boxes: list[Tensor]
    losses: dict[str, Tensor]
    objectness: list[Tensor]


class ViTDetProposals(RegionProposalNetwork):
    """torchvision's region proposal network with plain distances as box loss.

    Both losses are sums over the sampled anchors, divided by how many should be sampled: 256 an image.
    """

    def propose(self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None) -> Proposals:
        """Regions of a batch of maps, and in training the losses."""
        maps = list(features.values())
        objectness, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        counts = [level[0].numel() for level in objectness]
        flat_logits, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        with torch.no_grad():
            decoded = self.box_coder.decode(flat_deltas.float(), anchors).view(len(anchors), -1, 4)
            boxes, _ = self.filter_proposals(decoded, flat_logits.float(), images.image_sizes, counts)
        losses: dict[str, Tensor] = {}
        if self.training:
            assert targets is not None, "training needs targets"
            labels, matched = self.assign_targets_to_anchors(anchors, targets)
            wanted = self.box_coder.encode(matched, anchors)
            parts = self.compute_loss(flat_logits, flat_deltas, labels, wanted)
            losses = dict(zip(("loss_objectness", "loss_rpn_box_reg"), parts))
        return Proposals(boxes, losses, objectness)

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Boxes and losses of :meth:`propose`."""
        boxes, losses, _ = self.propose(images, features, targets)
        return boxes, losses

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss of objectness, and of boxes."""
        positive, negative = (torch.where(torch.cat(chosen))[0] for chosen in self.fg_bg_sampler(labels))
        sampled = torch.cat((positive, negative))
        joined, targets = torch.cat(labels), torch.cat(list(regression_targets))
        distance = F.l1_loss(pred_bbox_deltas[positive].float(), targets[positive], reduction="sum")
        logits = objectness.flatten()[sampled].float()
        entropy = F.binary_cross_entropy_with_logits(logits, joined[sampled], reduction="sum")
        wanted = self.fg_bg_sampler.batch_size_per_image * len(labels)
        return entropy / wanted, distance / wanted


class ViTDetHeads(LossHeads):
    """torchvision's heads with plain distances as box loss, and hard masks."""

    def _box_loss(self, deltas: Tensor, labels: Tensor, targets: Tensor, proposals: Tensor) -> Tensor:
        """Of the true class's deltas of objects, over the number of all sampled regions."""
        objects = torch.where(labels > 0)[0]
        chosen = deltas.unflatten(1, (-1, 4))[objects, labels[objects]]
        return F.l1_loss(chosen.float(), targets[objects].float(), reduction="sum") / max(1, labels.numel())

    def _mask_targets(self, masks: Tensor, regions: Tensor, matches: Tensor, side: int) -> Tensor:
        rois = torch.cat((matches[:, None].to(regions), regions), 1)
        cropped: Tensor = roi_align(masks[:, None].to(rois), rois, side, 1.0, 0, aligned=True)[:, 0]
        return (cropped >= 0.5).to(cropped)


class BoxPredictor(nn.Module):
    """Classes and boxes of regions. The weights are detectron2's: the background is the last class and has no box.

    Args:
        in_channels: of a region's features.
        num_classes: K, without background.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(R, C)`` to logits ``(R, 1 + K)`` and deltas ``(R, 4 (1 + K))``, as torchvision orders them: the
        background first, its deltas zero.
        """
        return self.cls_score(x).roll(1, 1), F.pad(self.bbox_pred(x), (4, 0))


class MaskPredictor(MaskRCNNPredictor):
    """Masks of regions. The weights are detectron2's: none for the background.

    Args:
        channels: of a region's map.
        num_classes: K, without background.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, channels, num_classes)
        nn.init.kaiming_normal_(self.conv5_mask.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)
        for layer in (self.conv5_mask, self.mask_fcn_logits):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(R, C, 14, 14)`` to logits ``(R, 1 + K, 28, 28)``, those of the background zero."""
        return F.pad(super().forward(x), (0, 0, 0, 0, 1, 0))


def vitdet_rcnn(
    body: ViTDet,
    num_classes: int,
    *,
    masks: bool = True,
    channels: int = CHANNELS,
    hidden: int | None = None,
    resize_training: bool = True,
    **options: Any,
) -> FasterRCNN:
    """Mask R-CNN over a plain transformer, or Faster R-CNN where there are no masks.

    Images are given in [0, 1]; inside they are resized, long side to the transformer's ``img_size``, normalised, and
    padded to a square of it. Class 0 is the background. Fresh weights as detectron2's.

    Args:
        body: the transformer.
        num_classes: without background.
        masks: predict them.
        channels: of the pyramid and the heads.
        hidden: channels of the linear layer for boxes; four times ``channels`` by default.
        resize_training: resize images also in training; False where their loader does it.
        **options: of torchvision's ``MaskRCNN``, e.g. ``box_score_thresh``.
    """
    hidden = 4 * channels if hidden is None else hidden
    backbone = ViTDetPyramid(body, channels)
    detector = rcnn(
        backbone,
        num_classes,
        masks=masks,
        aligned=True,
        hidden=hidden,
        short_side=body.img_size,
        long_side=body.img_size,
        **{"rpn_post_nms_top_n_train": 1000, "_skip_resize": not resize_training, **options},
    )
    detector.transform.size_divisible = body.img_size
    strides = backbone.strides
    detector.rpn.anchor_generator = ExactAnchors(tuple((8 * s,) for s in strides), ((0.5, 1.0, 2.0),) * len(strides))
    detector.rpn.__class__ = ViTDetProposals  # neither has a state of its own
    heads = detector.roi_heads
    heads.__class__ = ViTDetHeads
    heads.box_predictor = BoxPredictor(hidden, num_classes)
    if masks:
        heads.mask_predictor = MaskPredictor(channels, num_classes)
    fc = heads.box_head[-2]
    nn.init.kaiming_uniform_(fc.weight, a=1)
    nn.init.zeros_(fc.bias)
    return detector
