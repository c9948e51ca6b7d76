"""A small network for tiny objects: learns from scratch on a CPU in half a minute (section 10 of the notes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from vireo.engine.averages import mean_over_processes

from .localizer import Candidates, Localizer, Target

STRIDE = 4
_REACH = 4.0  # pixels: a place is positive if the centre of a label is as near as that along both axes
_SHIFT, _SIZE = 8.0, 16.0  # pixels: units of the regressed shift, and the size whose logarithm is 0
_MOST_LOG_SIZE = 4.0


class SmallLocalizer(Localizer):
    """Two strided and four dilated convolutions, and at each place of stride 4 a class, a shift and a size.

    A place is a centre ``(4 c + 2, 4 r + 2)``. Those with the centre of a label within 4 pixels (in the maximum norm)
    are positive, for the nearest label; those beyond the image are not trained. Losses are focal for the classes and
    smooth L1 for the shift to the label's centre and the logarithm of its sides, over the number of positives in the
    batch.

    Args:
        num_classes: C.
        widths: channels after each of the two strided convolutions.
        dilations: of the convolutions that follow.
        **options: of :class:`~p2p_loc.localizer.Localizer`.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, int] = (12, 24),
        dilations: Sequence[int] = (1, 2, 1, 2),
        **options: Any,
    ) -> None:
        super().__init__(num_classes, **options)
        channels, layers = 3, []
        for width, stride, dilation in [(w, 2, 1) for w in widths] + [(widths[-1], 1, d) for d in dilations]:
            conv = nn.Conv2d(channels, width, 3, stride, dilation, dilation, bias=False)
            layers += [conv, nn.GroupNorm(4, width), nn.ReLU()]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, num_classes + 4, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        first = torch.zeros(num_classes + 4)
        first[:num_classes] = -math.log(99)  # a score of 0.01
        self.head.bias = nn.Parameter(first)

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits ``(B, P, C)``, shifts and sizes ``(B, P, 4)`` and the places ``(P, 2)`` x, y they are at."""
        out = self.head(self.body(images)).float()
        height, width = out.shape[-2:]
        y, x = torch.meshgrid(*(torch.arange(n, device=out.device) for n in (height, width)), indexing="ij")
        places = STRIDE * (torch.stack([x, y], -1).reshape(-1, 2) + 0.5)
        flat = out.flatten(2).transpose(1, 2)
        return flat[..., : self.num_classes], flat[..., self.num_classes :], places

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_box``; see the base."""
        logits, offsets, places = self.raw(images)
        wanted, goals = torch.zeros_like(logits), torch.zeros_like(offsets)
        inside = torch.stack([inside_image(places, target["size"]) for target in targets])
        positive = torch.zeros_like(inside)
        for i, target in enumerate(targets):
            boxes = target["boxes"].to(places)
            owner = nearest_label(places, boxes).where(inside[i], -1)
            found = (owner >= 0).nonzero()[:, 0]
            own = boxes[owner[found]]
            wanted[i, found, target["labels"][owner[found]]] = 1.0
            shift = ((own[:, :2] + own[:, 2:]) / 2 - places[found]) / _SHIFT
            goals[i, found] = torch.cat([shift, ((own[:, 2:] - own[:, :2]).clamp(min=1) / _SIZE).log()], 1)
            positive[i] = owner >= 0
        (count,) = mean_over_processes(positive.sum().float())
        count = count.clamp(min=1)
        return {
            "loss_cls": sigmoid_focal_loss(logits[inside], wanted[inside], reduction="sum") / count,
            "loss_box": F.smooth_l1_loss(offsets[positive], goals[positive], reduction="sum") / count,
        }

    def candidates(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        """One box for each place whose centre is inside the image."""
        logits, offsets, places = self.raw(images)
        centres = places + _SHIFT * offsets[..., :2]
        halves = 0.5 * _SIZE * offsets[..., 2:].clamp(max=_MOST_LOG_SIZE).exp()
        boxes, scores = torch.cat([centres - halves, centres + halves], -1), logits.sigmoid()
        found = []
        for i, (height, width) in enumerate(sizes):
            inside = inside_image(places, (height, width))
            limit = places.new_tensor([width, height, width, height])
            found.append(Candidates(boxes[i, inside].clamp(min=0).minimum(limit), scores[i, inside]))
        return found


def inside_image(places: Tensor, size: Sequence[Any]) -> Tensor:
    """bool ``(P,)``: which of the places ``(P, 2)`` lie in an image of ``(h, w)`` pixels without padding."""
    return (places < places.new_tensor([float(size[1]), float(size[0])])).all(1)


def nearest_label(places: Tensor, boxes: Tensor) -> Tensor:
    """int64 ``(P,)``: for each place ``(P, 2)`` the nearest of the boxes ``(n, 4)`` whose centre is in reach, or -1."""
    if not len(boxes):
        return places.new_full((len(places),), -1, dtype=torch.long)
    distance = (places[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(-1)
    least, owner = distance.min(1)
    return torch.where(least <= _REACH, owner, -1)
