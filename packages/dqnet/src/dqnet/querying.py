"""What the queries of a network answer, to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vireo.report import grid

from .model import DQnet

_SIDE = 224  # of a panel in pixels, about


@dataclass(frozen=True)
class QueryingMaps:
    """The answer of one stage's query, before it is fused with the two maps.

    Attributes:
        gate: the mean over channels of the answer's sigmoid, in [0, 1]; ``(B, h, w)``.
        energy: the root mean square of the answer over channels; ``(B, h, w)``.
    """

    gate: Tensor
    energy: Tensor


@torch.no_grad()
def querying_maps(model: DQnet, images: Tensor) -> tuple[Tensor, list[QueryingMaps]]:
    """Logits of images, and what the query before each of the four stages answers.

    Args:
        model: in evaluation mode.
        images: normalised ``(B, 3, H, W)``.

    Returns:
        Logits ``(B, 1, H, W)``, and an entry for each stage; none where the network has no queries.
    """
    found: list[QueryingMaps] = []

    def look(query: Any, maps: tuple[Tensor, Tensor]) -> None:
        answer = query.attend(*maps).float()
        found.append(QueryingMaps(answer.sigmoid().mean(1), answer.square().mean(1).sqrt()))

    stages: Any = () if model.resnet is None else model.resnet.queries or ()
    handles = [stage.query.register_forward_pre_hook(look) for stage in stages]
    try:
        logits: Tensor = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits, found


def draw_querying_maps(stages: list[QueryingMaps], index: int = 0) -> np.ndarray:
    """Gates above, energies below, a column for each stage; each map from its least value (dark) to its greatest.

    Args:
        stages: of :func:`querying_maps`; at least one.
        index: of the image.

    Returns:
        uint8 ``(H, W, 3)`` RGB.
    """
    panels, captions = [], []
    for name in ("gate", "energy"):
        for number, stage in enumerate(stages, start=1):
            values = getattr(stage, name)[index].cpu().numpy()
            panels.append(_coloured(values))
            captions.append(f"{name} {number}: {values.min():.2f} to {values.max():.2f}")
    return grid(panels, len(stages), captions)


def _coloured(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    levels = ((values - low) / (high - low) * 255 if high > low else np.zeros_like(values)).astype(np.uint8)
    factor = max(1, round(_SIDE / max(values.shape)))
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1].repeat(factor, 0).repeat(factor, 1)
