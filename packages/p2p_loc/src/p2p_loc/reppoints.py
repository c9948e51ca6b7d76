"""RepPoints, the paper's localiser, with the strides of its "Adap" form by default (section 3.4 of the notes).

Yang et al., ICCV 2019 (arXiv 1904.11490). Points are predicted in units of the stride relative to their location.
Shapes: B images, C classes, N locations of all levels, P = 9 points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from vireo.backbones.fpn import ConvNorm
from vireo.engine.averages import mean_over_processes
from vireo.errors import InputError

from .assign import BACKGROUND, IGNORED, assign_by_iou, assign_points, grid_locations
from .localizer import Candidates, Target
from .losses import focal_loss, smooth_l1
from .pyramid import PyramidLocalizer, in_padded_area, padded_area
from .transform import TRANSFORMS, Transform, points_to_boxes

ADAP_STRIDES = (4, 8, 16, 32, 64)
NUM_POINTS = 9  # those of a 3x3 kernel
SMOOTH_L1_BETA = 0.11
INIT_WEIGHT = 0.5  # of the loss of the first stage's boxes
OFFSET_GRADIENT = 0.1  # share of the deformable convolutions' gradient that reaches the first stage's points
PRIOR = 0.01  # score of every class before training
CANDIDATES_PER_LEVEL = 2000


class DeformConv3x3(nn.Module):
    """Deformable 3x3 convolution without modulation and bias (Dai et al., ICCV 2017); never in bfloat16."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` and offsets ``(B, 18, H, W)``, (y, x) of each tap, to ``(B, C', H, W)``."""
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return deform_conv2d(x, offset, self.weight, padding=1)
        with torch.autocast(device, enabled=False):  # torchvision's operator knows no bfloat16
            return deform_conv2d(x.float(), offset.float(), self.weight, padding=1)


class RepPointsOutput(NamedTuple):
    """What the head says of every level, float32.

    Attributes:
        logits: ``(B, C, H, W)`` each.
        init: ``(B, 18, H, W)`` each, the points of the first stage: (y, x) pairs, in strides from the location.
        refined: the same of the second stage.
    """

    logits: list[Tensor]
    init: list[Tensor]
    refined: list[Tensor]


class RepPointsHead(nn.Module):
    """Head of RepPoints, shared by all levels.

    Args:
        num_classes: C.
        in_channels: of the pyramid, and of the head.
        strides: of the levels, each twice the one before.
        base_scale: 2 for strides from 4 (Adap), 4 for strides from 8: what a box of side ``base_scale * stride`` is
            normalised to, and which level an object belongs to.
        transform: from points to a box, see :func:`~p2p_loc.transform.points_to_boxes`.

    Raises:
        InputError: strides that are not consecutive powers of two, or an unknown transform.
    """

    kernel_offsets: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        strides: Sequence[int] = ADAP_STRIDES,
        base_scale: float = 2.0,
        transform: Transform = "moment",
    ) -> None:
        super().__init__()
        if strides[0] & (strides[0] - 1) or any(b != 2 * a for a, b in pairwise(strides)):
            raise InputError(f"strides {list(strides)}", "model.strides", "double a power of two level by level")
        if transform not in TRANSFORMS:
            remedy = f"use one of {', '.join(TRANSFORMS)}"
            raise InputError(f"unknown transform {transform!r}", "model.transform", remedy)
        self.num_classes, self.strides, self.base_scale = num_classes, tuple(strides), base_scale
        self.transform: Transform = transform
        width = in_channels
        self.cls_convs = nn.ModuleList(ConvNorm(width, width, 3, "gn") for _ in range(3))
        self.reg_convs = nn.ModuleList(ConvNorm(width, width, 3, "gn") for _ in range(3))
        self.cls_conv = DeformConv3x3(width, width)
        self.cls_out = nn.Conv2d(width, num_classes, 1)
        self.pts_init_conv = nn.Conv2d(width, width, 3, padding=1)
        self.pts_init_out = nn.Conv2d(width, 2 * NUM_POINTS, 1)
        self.pts_refine_conv = DeformConv3x3(width, width)
        self.pts_refine_out = nn.Conv2d(width, 2 * NUM_POINTS, 1)
        if transform == "moment":
            self.moment_transfer = nn.Parameter(torch.zeros(2))
        taps = torch.stack(torch.meshgrid(torch.arange(-1.0, 2), torch.arange(-1.0, 2), indexing="ij"), dim=-1)
        self.register_buffer("kernel_offsets", taps.reshape(1, -1, 1, 1), persistent=False)
        init_convolutions(self, self.cls_out)

    def forward(self, features: Sequence[Tensor]) -> RepPointsOutput:
        """From pyramid maps ``(B, in_channels, H, W)``."""
        levels = [self._level(x) for x in features]
        return RepPointsOutput(*([level[i].float() for level in levels] for i in range(3)))

    def boxes(self, points: Tensor) -> Tensor:
        """``(B, 4, ...)`` xyxy in strides from the location, of points ``(B, 18, ...)``."""
        return points_to_boxes(points, self.transform, getattr(self, "moment_transfer", None))

    def losses(self, found: RepPointsOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_pts_init`` and ``loss_pts_refine``, each ``(levels,)``, weighted, to be summed.

        Args:
            found: from :meth:`forward`.
            targets: as of :meth:`~p2p_loc.localizer.Localizer.losses`.
        """
        sizes = [(m.shape[2], m.shape[3]) for m in found.logits]
        init, refined = (
            torch.cat([self.boxes(points).flatten(2) for points in maps], dim=2).transpose(1, 2)
            for maps in (found.init, found.refined)
        )  # (B, N, 4), in strides
        first, second, label, init_goal, refined_goal = self._assigned(init.detach(), sizes, targets)
        started, positive = first != BACKGROUND, second >= 0
        init_count, count = mean_over_processes(*(on.sum(1).clamp(min=1).sum() for on in (started, positive)))
        logits = torch.cat([m.flatten(2) for m in found.logits], dim=2).transpose(1, 2)
        scale, beta = self.base_scale, SMOOTH_L1_BETA
        per_location = {
            "loss_cls": focal_loss(logits, label) * (second != IGNORED) / count,
            "loss_pts_init": INIT_WEIGHT * smooth_l1(init / scale, init_goal / scale, beta) * started / init_count,
            "loss_pts_refine": smooth_l1(refined / scale, refined_goal / scale, beta) * positive / count,
        }
        lengths = [height * width for height, width in sizes]
        return {
            name: torch.stack([part.sum() for part in loss.split(lengths, dim=1)])
            for name, loss in per_location.items()
        }

    @torch.no_grad()
    def candidates(self, found: RepPointsOutput, sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        """The best locations of each level, at most 2000, as boxes inside the image with scores.

        Locations in the padding that an image has only because of the others in the batch are left out.

        Args:
            found: from :meth:`forward`.
            sizes: ``(h, w)`` of each image.
        """
        levels = []
        for logits, points, stride in zip(found.logits, found.refined, self.strides):
            scores = logits.flatten(2).sigmoid()  # (B, C, H * W)
            locations = grid_locations([(logits.shape[2], logits.shape[3])], [stride], logits.device)[:, :2]
            usable = torch.stack([in_padded_area(locations, size) for size in sizes])
            ranked = scores.amax(1).where(usable, -1)
            best = ranked.topk(min(CANDIDATES_PER_LEVEL, scores.shape[2])).indices
            chosen = points.flatten(2).gather(2, best[:, None].expand(-1, 2 * NUM_POINTS, -1))
            width = logits.shape[3]
            corner = torch.stack([best % width, best // width], dim=1).repeat(1, 2, 1)
            boxes = (self.boxes(chosen) + corner) * stride
            chosen_scores = scores.gather(2, best[:, None].expand(-1, self.num_classes, -1))
            levels.append((boxes, chosen_scores, usable.gather(1, best)[:, None]))
        boxes, scores, kept = (torch.cat(parts, dim=2).transpose(1, 2) for parts in zip(*levels))
        return [
            Candidates(clipped(b[k[:, 0]], size), s[k[:, 0]])
            for b, s, k, size in zip(boxes, scores, kept, sizes, strict=True)
        ]

    def _assigned(
        self, init: Tensor, sizes: list[tuple[int, int]], targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Objects of both stages ``(B, N)``, class of the second, and both stages' boxes ``(B, N, 4)``, in strides."""
        locations = grid_locations(sizes, self.strides, init.device)
        base, stride = locations[:, [0, 1, 0, 1]], locations[:, 2:]
        height, width = (length * self.strides[0] for length in sizes[0])  # of the batch
        images = []
        for target, proposals in zip(targets, init * stride + base, strict=True):
            boxes, labels = target["boxes"].to(init), target["labels"].to(init.device)
            area = padded_area(target["size"])
            whole = area[0] >= height and area[1] >= width
            usable = None if whole else in_padded_area(locations, target["size"])
            first = assign_points(boxes, sizes, self.strides, self.base_scale, area=area)
            second, _ = assign_by_iou(proposals, boxes, usable)
            goals = [(_of(boxes, match, 0.0) - base) / stride for match in (first, second)]
            images.append((first, second, _of(labels, second, self.num_classes), *goals))
        first, second, label, init_goal, refined_goal = (torch.stack(parts) for parts in zip(*images))
        return first, second, label, init_goal, refined_goal

    def _level(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, points of the first and of the second stage of one level."""
        cls, reg = x, x
        for conv in self.cls_convs:
            cls = F.relu(conv(cls))
        for conv in self.reg_convs:
            reg = F.relu(conv(reg))
        init = self.pts_init_out(F.relu(self.pts_init_conv(reg)))
        shared = (1 - OFFSET_GRADIENT) * init.detach() + OFFSET_GRADIENT * init
        offset = shared - self.kernel_offsets
        logits = self.cls_out(F.relu(self.cls_conv(cls, offset)))
        refined = self.pts_refine_out(F.relu(self.pts_refine_conv(reg, offset))) + init.detach()
        return logits, init, refined


class RepPoints(PyramidLocalizer):
    """RepPoints over any backbone: "Adap RepPoints" of the paper as it stands, the standard one with strides 8..128.

    Args:
        num_classes: C.
        backbone: timm name, or one that a Vireo package registers.
        strides, base_scale, transform: of :class:`RepPointsHead`.
        **options: of :class:`~p2p_loc.pyramid.PyramidLocalizer`.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        strides: Sequence[int] = ADAP_STRIDES,
        base_scale: float = 2.0,
        transform: Transform = "moment",
        **options: Any,
    ) -> None:
        super().__init__(num_classes, backbone, strides=strides, **options)
        self.head = RepPointsHead(num_classes, self.neck.out_channels, strides, base_scale, transform)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        per_level = self.head.losses(self.head(self.extract(images)), targets)
        return {name: loss.sum() for name, loss in per_level.items()}

    def candidates(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        return self.head.candidates(self.head(self.extract(images)), sizes)


def init_convolutions(head: nn.Module, classifier: nn.Conv2d) -> None:
    """Plain convolutions normal with deviation 0.01, and a classifier that says 0.01 of everything."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(classifier.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes ``(K, 4)`` xyxy moved into an image of ``(h, w)``."""
    height, width = (float(length) for length in size)
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def _of(values: Tensor, match: Tensor, otherwise: float) -> Tensor:
    """The rows of ``values`` ``(n, ...)`` that locations ``(N,)`` are matched to, ``otherwise`` where to none."""
    padded = torch.cat([values, values.new_full((1, *values.shape[1:]), otherwise)])
    return padded[match.where(match >= 0, len(values))]
