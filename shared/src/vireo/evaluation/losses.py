"""Mean losses of a pre-training network over a set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@torch.no_grad()
def mean_losses(
    network: nn.Module, loader: Any, losses_of: Callable[[int, Tensor, dict[str, Tensor]], Mapping[str, Tensor]]
) -> dict[str, float]:
    """Means over the images of all processes, each of which must call this; the same crops each time.

    Args:
        network: not wrapped for several processes; left in evaluation mode.
        loader: over this process's share of the images.
        losses_of: mean losses of a batch, from its number, its images and its targets.
    """
    network.eval()
    totals: dict[str, float] = {}
    count = 0
    for number, (images, targets) in enumerate(loader.batches(0)):
        for name, value in losses_of(number, images, targets).items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(images)
        count += len(images)
    shares = [(count, totals)]
    if dist.is_available() and dist.is_initialized():
        shares *= dist.get_world_size()
        dist.all_gather_object(shares, (count, totals))
    names = max((share[1] for share in shares), key=len)  # a process without images has none
    images_seen = sum(share[0] for share in shares)
    return {name: sum(share[1].get(name, 0.0) for share in shares) / images_seen for name in names}
