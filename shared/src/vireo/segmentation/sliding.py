"""Scores of an image of any size by a network for one size: overlapping windows, averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vireo.errors import InputError

Size = tuple[int, int]


def window_places(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along a side of ``length`` >= ``window``; the last one is shifted inside."""
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def sliding_window_logits(
    model: Callable[[Tensor], Tensor], images: Tensor, window: Size, stride: Size, batch_size: int = 8
) -> Tensor:
    """Scores of images from windows, where they overlap their mean (the rules of mmsegmentation).

    Images smaller than a window are padded with zeros at the right and at the bottom, and their scores cut again.

    Args:
        model: windows ``(b, 3, *window)`` to scores ``(b, K, *window)``.
        images: normalised, ``(B, 3, H, W)``.
        window: (height, width) that the network is for.
        stride: (rows, columns) from one window to the next; at most ``window``.
        batch_size: windows in one pass.

    Returns:
        ``(B, K, H, W)``.

    Raises:
        InputError: a stride that is not positive or leaves gaps.
    """
    if not all(0 < step <= side for step, side in zip(stride, window)):
        what = f"windows of {window[0]}x{window[1]} with a stride of {stride[0]}x{stride[1]}"
        raise InputError(what, "sliding_window_logits", "use a positive stride of at most the window")
    height, width = images.shape[-2:]
    below, right = max(window[0] - height, 0), max(window[1] - width, 0)
    padded = F.pad(images, (0, right, 0, below)) if below or right else images
    rows = window_places(height + below, window[0], stride[0])
    columns = window_places(width + right, window[1], stride[1])
    places = [(image, y, x) for y in rows for x in columns for image in range(len(images))]
    total: Tensor | None = None
    for start in range(0, len(places), batch_size):
        chosen = places[start : start + batch_size]
        windows = torch.stack([padded[i, :, y : y + window[0], x : x + window[1]] for i, y, x in chosen])
        scores = model(windows)
        if total is None:
            total = scores.new_zeros(len(images), scores.shape[1], *padded.shape[-2:])
        for (i, y, x), score in zip(chosen, scores):
            total[i, :, y : y + window[0], x : x + window[1]] += score
    assert total is not None, "no images"
    times = [_coverage(s, p, w, images) for s, p, w in zip(padded.shape[-2:], (rows, columns), window)]
    return (total / (times[0][:, None] * times[1]))[..., :height, :width]


def _coverage(length: int, places: list[int], window: int, like: Tensor) -> Tensor:
    """How many windows cover each pixel along one side; ``(length,)``."""
    count = like.new_zeros(length)
    for start in places:
        count[start : start + window] += 1
    return count
