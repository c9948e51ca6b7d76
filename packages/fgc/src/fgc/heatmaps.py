"""Pictures of which channels fire."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ON = (31, 111, 235)
OFF = (226, 230, 236)
GAP = (255, 255, 255)


def draw_gates(logits: Sequence[Tensor], width: int = 512, row_height: int = 14) -> np.ndarray:
    """The gates of one image: a row for each block, a cell for each channel, dark where the channel is computed.

    Open cells are blue, closed ones grey; both the stronger, the surer the gate is. Wide blocks have narrower cells.

    Args:
        logits: per block ``(C,)``.
        width: of the picture in pixels, at least the channels of the widest block.
        row_height: of a block in pixels.

    Returns:
        uint8 ``(H, width, 3)`` RGB.
    """
    picture = np.full((row_height * len(logits), width, 3), GAP, np.uint8)
    for number, z in enumerate(logits):
        channel = np.arange(width) * len(z) // width
        row = _colours(z.detach().float())[channel]
        if width >= 4 * len(z):
            row[np.flatnonzero(np.diff(channel))] = GAP
        picture[number * row_height : (number + 1) * row_height - 2] = row
    return picture


def draw_gate_patterns(logits: Tensor, labels: Tensor, classes: int, side: int = 448) -> np.ndarray:
    """The gates of one block for many images, a row each, sorted by class; a line parts the classes.

    Channels are sorted by how often they are on. A gate that follows the class shows as a step from class to class.

    Args:
        logits: ``(N, C)``.
        labels: ``(N,)``.
        classes: how many classes are shown, from 0.
        side: width and height of the picture, about.

    Returns:
        uint8 ``(H, W, 3)`` RGB.
    """
    order = labels.argsort(stable=True)
    order = order[labels[order] < classes]
    channels = (logits > 0).float().mean(0).argsort(descending=True)
    cells = _colours(logits[order][:, channels].float())
    tall, wide = max(1, side // len(order)), max(1, side // logits.shape[1])
    picture = cells.repeat(tall, 0).repeat(wide, 1)
    for edge in np.flatnonzero(np.diff(labels[order].cpu().numpy())) + 1:
        picture[edge * tall] = 0
    return picture


def _colours(logits: Tensor) -> np.ndarray:
    """uint8 ``(..., 3)``: the colour of each gate."""
    strength = (0.35 + 0.65 * (2 * torch.sigmoid(logits) - 1).abs()).cpu().numpy()[..., None]
    base = np.where((logits > 0).cpu().numpy()[..., None], np.array(ON), np.array(OFF))
    return (255 - strength * (255 - base)).round().astype(np.uint8)
