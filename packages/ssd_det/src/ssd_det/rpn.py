"""Region proposal network on a feature pyramid, with the settings of mmdetection 2 that the paper trains with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from vireo.engine.averages import mean_over_processes

from .assign import assign_by_iou, sample_matches
from .boxes import RPN_STDS, BoxCoder, clip_boxes
from .draws import Draws

ANCHOR_RATIOS = (0.5, 1.0, 2.0)  # height / width
SMOOTH_L1_BETA = 1 / 9


def anchor_grid(height: int, width: int, stride: int, scale: float, device: torch.device) -> Tensor:
    """Anchors ``(height * width * 3, 4)`` centred on multiples of the stride, sides ``scale * stride``, 3 ratios."""
    ratio = torch.tensor(ANCHOR_RATIOS, device=device).sqrt()
    half = 0.5 * scale * stride * torch.stack([1 / ratio, ratio], dim=1)
    base = torch.cat([-half, half], dim=1)
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    centre = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4) * stride
    return (centre + base).reshape(-1, 4)


class RegionProposalNetwork(nn.Module):
    """One 3x3 convolution and two 1x1 heads shared by all levels.

    Args:
        in_channels: channels of the pyramid.
        strides: stride of every level, finest first.
        anchor_scale: anchor side in units of the stride.
        cls_weight: weight of the objectness loss (4.0 in SSD-Det).
        pre_nms: candidates kept per level (training, evaluation).
        post_nms: proposals kept per image.
        box_coder: see :class:`~ssd_det.boxes.BoxCoder`.
        smooth_l1_beta: of the box loss; 0 is plain L1 (OA-MIL and the published baselines).

    Raises:
        InputError: for an unknown ``box_coder``.
    """

    def __init__(
        self,
        in_channels: int = 256,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        anchor_scale: float = 8.0,
        cls_weight: float = 4.0,
        pre_nms: tuple[int, int] = (2000, 1000),
        post_nms: int = 1000,
        size_divisor: int = 32,
        box_coder: Literal["delta", "corner"] = "delta",
        smooth_l1_beta: float = SMOOTH_L1_BETA,
    ) -> None:
        super().__init__()
        self.strides, self.anchor_scale, self.cls_weight = tuple(strides), anchor_scale, cls_weight
        self.pre_nms, self.post_nms, self.size_divisor = pre_nms, post_nms, size_divisor
        self.coder, self.smooth_l1_beta = BoxCoder(box_coder, RPN_STDS), smooth_l1_beta
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.cls = nn.Conv2d(in_channels, len(ANCHOR_RATIOS), 1)
        self.reg = nn.Conv2d(in_channels, 4 * len(ANCHOR_RATIOS), 1)

        for layer in (self.conv, self.cls, self.reg):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits ``(B, 3, H, W)`` and offsets ``(B, 12, H, W)`` of every level, float32."""
        hidden = [F.relu(self.conv(x)) for x in features]
        return [self.cls(x).float() for x in hidden], [self.reg(x).float() for x in hidden]

    def anchors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors of every level, ``(H * W * 3, 4)``."""
        return [
            anchor_grid(m.shape[-2], m.shape[-1], stride, self.anchor_scale, m.device)
            for m, stride in zip(maps, self.strides)
        ]

    def usable(self, maps: Sequence[Tensor], padded_sizes: Tensor) -> Tensor:
        """``(B, N)`` bool: anchors centred inside each image's own padded area, not in the padding of the batch."""
        parts = []
        for m, stride in zip(maps, self.strides):
            height, width = m.shape[-2:]
            rows = torch.arange(height, device=m.device) < (padded_sizes[:, 0:1] / stride).ceil()  # (B, H)
            columns = torch.arange(width, device=m.device) < (padded_sizes[:, 1:2] / stride).ceil()
            inside = rows[:, :, None] & columns[:, None, :]
            parts.append(inside.flatten(1).repeat_interleave(len(ANCHOR_RATIOS), dim=1))
        return torch.cat(parts, dim=1)

    def loss(
        self,
        logits: Sequence[Tensor],
        offsets: Sequence[Tensor],
        boxes: Sequence[Tensor],
        image_sizes: Tensor,
        draws: Draws,
        padded_sizes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_box``; 256 anchors an image, at most half of them positive.

        Args:
            logits, offsets: from :meth:`forward`.
            boxes: per image ``(n, 4)`` targets.
            image_sizes: ``(B, 2)``.
            padded_sizes: ``(B, 2)`` area whose anchors are used; by default each size rounded up to the size divisor.
        """
        if padded_sizes is None:
            padded_sizes = (image_sizes / self.size_divisor).ceil() * self.size_divisor
        anchors = torch.cat(self.anchors(logits))
        usable = self.usable(logits, padded_sizes.to(anchors.device))
        match = torch.stack([assign_by_iou(anchors, b, 0.7, 0.3, 0.3, ok) for b, ok in zip(boxes, usable)])
        priority = draws("rpn", len(boxes), len(anchors), anchors.device)
        positive, negative = sample_matches(match, 256, 0.5, priority)
        count = (positive.sum(1).clamp(min=1) + negative.sum(1).clamp(min=1)).sum().float()
        (count,) = mean_over_processes(count)

        flat_logits, flat_offsets = _flatten(logits, 1), _flatten(offsets, 4)
        sampled = positive | negative
        objectness = F.binary_cross_entropy_with_logits(
            flat_logits[..., 0][sampled], positive[sampled].float(), reduction="sum"
        )
        goals = [b[m[p]] for b, m, p in zip(boxes, match, positive)]
        rows = [anchors[p] for p in positive]
        goal = self.coder.encode(torch.cat(rows), torch.cat(goals))
        box = F.smooth_l1_loss(flat_offsets[positive], goal, beta=self.smooth_l1_beta, reduction="sum")
        return {"loss_rpn_cls": self.cls_weight * objectness / count, "loss_rpn_box": box / count}

    @torch.no_grad()
    def propose(
        self, logits: Sequence[Tensor], offsets: Sequence[Tensor], image_sizes: Tensor, training: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Proposals of each image: boxes ``(n, 4)`` clipped to it and scores ``(n,)`` in [0, 1], best first."""
        limit = self.pre_nms[0 if training else 1]
        scores, deltas, anchors, levels = [], [], [], []
        for i, anchor in enumerate(self.anchors(logits)):
            score = _flatten([logits[i]], 1)[..., 0].sigmoid()
            best, index = score.sort(dim=1, descending=True, stable=True)
            best, index = best[:, :limit], index[:, :limit]
            scores.append(best)
            deltas.append(_flatten([offsets[i]], 4).gather(1, index[..., None].expand(-1, -1, 4)))
            anchors.append(anchor[index])
            levels.append(torch.full_like(index, i))
        boxes = self.coder.decode(torch.cat(anchors, 1), torch.cat(deltas, 1))
        boxes = clip_boxes(boxes, image_sizes.to(boxes)[:, None])
        score, level = torch.cat(scores, 1), torch.cat(levels, 1)
        proper = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        found = []
        for b, s, lv, ok in zip(boxes, score, level, proper):
            b, s, lv = b[ok], s[ok], lv[ok]
            keep = batched_nms(b, s, lv, 0.7)[: self.post_nms]
            found.append((b[keep], s[keep]))
        return found


def _flatten(maps: Sequence[Tensor], channels: int) -> Tensor:
    """``(B, A * channels, H, W)`` maps of all levels as ``(B, N, channels)`` in the order of the anchors."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, channels) for m in maps], dim=1)
