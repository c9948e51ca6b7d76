"""Features of boxes: RoIAlign over a pyramid and the two-layer perceptron that reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .roi_align import roi_align

FINEST_SCALE = 56  # sqrt(area) in pixels below which a box is read from the finest level


def pyramid_level(boxes: Tensor, num_levels: int) -> Tensor:
    """The level ``(R,)`` that each box ``(R, 4)`` is read from: ``floor(log2(sqrt(w h) / 56))``, limited."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = torch.floor(torch.log2(area.clamp(min=0).sqrt() / FINEST_SCALE + 1e-6))
    return level.clamp(0, num_levels - 1).long()


def roi_features(
    features: Sequence[Tensor], boxes: Tensor, batch_index: Tensor, strides: Sequence[int], size: int = 7
) -> Tensor:
    """RoIAlign of boxes on the pyramid level of their size (aligned, adaptive sampling).

    Args:
        features: maps ``(B, D, H / s, W / s)``, one for each of ``strides``.
        boxes: ``(R, 4)`` pixels; carries no gradient.
        batch_index: ``(R,)`` image of each box.

    Returns:
        ``(R, D, size, size)`` in the order of the boxes.
    """
    rois = torch.cat([batch_index[:, None].to(boxes), boxes.detach()], dim=1)
    if len(strides) == 1:
        return roi_align(features[0], rois, size, 1 / strides[0])
    level = pyramid_level(boxes, len(strides))
    rows, parts = [], []
    for i, stride in enumerate(strides):
        row = (level == i).nonzero()[:, 0]
        rows.append(row)
        parts.append(roi_align(features[i], rois[row], size, 1 / stride))
    order = torch.cat(rows).argsort()
    return torch.cat(parts)[order]


class TwoLayerMLP(nn.Module):
    """``Linear - ReLU - Linear - ReLU`` on flattened RoI features (channel-major)."""

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """``(R, D, s, s)`` or ``(R, in_features)`` to ``(R, hidden)``."""
        return F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
