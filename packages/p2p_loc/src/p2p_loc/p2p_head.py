"""The group's later localiser, which predicts points and is matched one to one (section 3.8 of the notes).

``P2PHead`` follows P2PNet (Song et al., ICCV 2021): every location holds K point anchors, each anchor predicts a point
and class scores, and the Hungarian algorithm decides which predictions stand for an object.
Shapes: B images, C classes, N = H * W * K predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.backbones.fpn import ConvNorm
from vireo.engine.averages import mean_over_processes

from .assign import BACKGROUND, grid_locations
from .localizer import Candidates, Target
from .losses import FOCAL_ALPHA, FOCAL_GAMMA, focal_loss, smooth_l1
from .pyramid import PyramidLocalizer, in_padded_area
from .reppoints import CANDIDATES_PER_LEVEL, init_convolutions

MATCHES_PER_OBJECT = 5
CLASS_COST, DISTANCE_COST = 2.0, 0.1
COST_EPS = 1e-12
POINT_WEIGHT = 0.5
SMOOTH_L1_BETA = 1 / 9
BOX_SIDE = 16.0  # pixels, of the box around a predicted point


class P2POutput(NamedTuple):
    """What the head says, float32.

    Attributes:
        logits: ``(B, N, C)``.
        points: ``(B, N, 2)``, x and y in pixels of the network's input.
        locations: ``(N, 2)``, the anchors.
    """

    logits: Tensor
    points: Tensor
    locations: Tensor


class P2PAssignment(NamedTuple):
    """What the predictions are trained towards.

    Attributes:
        match: int64 ``(B, N)``, index of the object, or ``BACKGROUND`` (-1).
        labels: int64 ``(B, N)``, its class; C for the background.
        goals: ``(B, N, 2)``, its point in pixels; the prediction itself for the background.
        usable: bool ``(B, N)``, False in the padding of the batch, which is not trained.
    """

    match: Tensor
    labels: Tensor
    goals: Tensor
    usable: Tensor


class P2PHead(nn.Module):
    """Point predictions on one map.

    Args:
        num_classes: C.
        in_channels: of the map, and of the head.
        stride: of the map.
        anchors: K points (x, y) around each location, in strides.
    """

    anchors: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        stride: int = 4,
        anchors: Sequence[tuple[float, float]] = ((0.0, 0.0),),
    ) -> None:
        super().__init__()
        self.num_classes, self.stride = num_classes, stride
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32).reshape(-1, 2), persistent=False)
        width, count = in_channels, len(anchors)
        self.cls_convs = nn.ModuleList(ConvNorm(width, width, 3, "gn") for _ in range(4))
        self.reg_convs = nn.ModuleList(ConvNorm(width, width, 3, "gn") for _ in range(4))
        self.cls_out = nn.Conv2d(width, num_classes * count, 3, padding=1)
        self.reg_out = nn.Conv2d(width, 2 * count, 3, padding=1)
        init_convolutions(self, self.cls_out)

    def maps(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, K * C, H, W)`` and shifts ``(B, K * 2, H, W)``, in strides, of ``(B, in_channels, H, W)``."""
        cls, reg = feature, feature
        for conv in self.cls_convs:
            cls = F.relu(conv(cls))
        for conv in self.reg_convs:
            reg = F.relu(conv(reg))
        return self.cls_out(cls), self.reg_out(reg)

    def forward(self, feature: Tensor) -> P2POutput:
        """From a map ``(B, in_channels, H, W)``."""
        logits, shift = (_by_anchor(m.float(), len(self.anchors)) for m in self.maps(feature))
        height, width = feature.shape[-2:]
        cells = grid_locations([(height, width)], [self.stride], feature.device)[:, :2]
        locations = (cells[:, None] + self.anchors * self.stride).flatten(0, 1)
        return P2POutput(logits, locations + shift * self.stride, locations)

    def losses(self, found: P2POutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_pts`` of each image, ``(B,)``, weighted, to be summed.

        Args:
            found: from :meth:`forward`.
            targets: as of :meth:`~p2p_loc.localizer.Localizer.losses`; an object's point is the centre of its box.
        """
        assigned = self.assign(found, targets)
        on = assigned.match != BACKGROUND
        (count,) = mean_over_processes(on.sum())
        count = count.clamp(min=1)
        cls = focal_loss(found.logits, assigned.labels) * assigned.usable
        error = smooth_l1(found.points / self.stride, assigned.goals / self.stride, SMOOTH_L1_BETA)
        return {"loss_cls": cls.sum(1) / count, "loss_pts": POINT_WEIGHT * (error * on).sum(1) / count}

    @torch.no_grad()
    def assign(self, found: P2POutput, targets: Sequence[Target]) -> P2PAssignment:
        """What every prediction stands for; arguments as of :meth:`losses`."""
        images = []
        for logits, points, target in zip(found.logits, found.points, targets, strict=True):
            boxes, labels = target["boxes"].to(logits), target["labels"].to(logits.device)
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            usable = in_padded_area(found.locations, target["size"])
            match = match_predictions(logits, points, centres, labels, usable)
            goals, label = points.clone(), labels.new_full(match.shape, self.num_classes)
            on = match != BACKGROUND
            goals[on], label[on] = centres[match[on]], labels[match[on]]
            images.append((match, label, goals, usable))
        return P2PAssignment(*(torch.stack(parts) for parts in zip(*images)))

    @torch.no_grad()
    def candidates(self, found: P2POutput, sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        """The best predictions, at most 2000, as boxes of 16 px around the points, with scores.

        Those of the padding that an image has only because of the others in the batch are left out.
        The points are moved into the image, the boxes may stick out of it: their centre is the prediction.

        Args:
            found: from :meth:`forward`.
            sizes: ``(h, w)`` of each image.
        """
        images = []
        for logits, points, size in zip(found.logits, found.points, sizes, strict=True):
            usable = in_padded_area(found.locations, size)
            scores, points = logits[usable].sigmoid(), points[usable]
            best = scores.amax(1).topk(min(CANDIDATES_PER_LEVEL, len(scores))).indices
            limit = points.new_tensor([size[1], size[0]])
            inside = torch.minimum(points[best].clamp(min=0), limit)
            images.append(Candidates(torch.cat([inside - BOX_SIDE / 2, inside + BOX_SIDE / 2], 1), scores[best]))
        return images


class P2PNet(PyramidLocalizer):
    """Backbone, pyramid of which only one map is used, and :class:`P2PHead`.

    Args:
        num_classes: C.
        backbone: timm name, or one that a Vireo package registers.
        stride: of the map, 4 (SeaPerson) or 8 (COCO).
        anchors: of :class:`P2PHead`.
        **options: of :class:`~p2p_loc.pyramid.PyramidLocalizer`.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        stride: int = 4,
        anchors: Sequence[tuple[float, float]] = ((0.0, 0.0),),
        nms_iou: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, backbone, strides=(stride,), nms_iou=nms_iou, **options)
        self.head = P2PHead(num_classes, self.neck.out_channels, stride, anchors)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        per_image = self.head.losses(self.head(self.extract(images)[0]), targets)
        return {name: loss.sum() for name, loss in per_image.items()}

    def candidates(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        """Those of the head that survive non-maximum suppression: as the authors do, tile by tile before joining."""
        found = self.head.candidates(self.head(self.extract(images)[0]), sizes)
        return [self._survivors(candidates) for candidates in found]

    def _survivors(self, found: Candidates) -> Candidates:
        kept = self.detections(found)
        scores = kept["scores"].new_zeros(len(kept["scores"]), self.num_classes)
        return Candidates(kept["boxes"], scores.scatter(1, kept["labels"][:, None], kept["scores"][:, None]))


def match_predictions(
    logits: Tensor, points: Tensor, goals: Tensor, labels: Tensor, usable: Tensor | None = None
) -> Tensor:
    """Which object each prediction stands for: the Hungarian algorithm, five times, each on what is left over.

    An object and a prediction cost twice the focal cost of its class and 0.1 for each pixel of L1 distance.

    Args:
        logits: ``(N, C)``.
        points: ``(N, 2)``, pixels.
        goals: ``(n, 2)``, pixels.
        labels: ``(n,)``.
        usable: ``(N,)`` bool; others stand for nothing.

    Returns:
        ``(N,)`` int64: index of the object, or ``BACKGROUND`` (-1). Every object has five predictions, fewer where
        fewer predictions than objects are left.
    """
    from scipy.optimize import linear_sum_assignment

    match = torch.full((len(logits),), BACKGROUND)
    if len(goals) == 0:
        return match.to(logits.device)
    probability = logits.sigmoid()
    positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -(probability + COST_EPS).log()
    negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * -(1 - probability + COST_EPS).log()
    cost = CLASS_COST * (positive - negative)[:, labels] + DISTANCE_COST * torch.cdist(points, goals, p=1)
    cost = cost.cpu()
    left = torch.arange(len(cost)) if usable is None else usable.cpu().nonzero()[:, 0]
    for _ in range(MATCHES_PER_OBJECT):
        if len(left) < len(goals):
            break
        row, column = (torch.from_numpy(side) for side in linear_sum_assignment(cost[left]))
        match[left[row]] = column
        left = left[match[left] == BACKGROUND]
    return match.to(logits.device)


def _by_anchor(maps: Tensor, count: int) -> Tensor:
    """``(B, K * c, H, W)`` as ``(B, H * W * K, c)``."""
    return maps.unflatten(1, (count, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)
