"""Numbers averaged over the processes of a training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_processes(*counts: Tensor) -> tuple[Tensor, ...]:
    """Each scalar averaged over all processes with one exchange; unchanged when there is only one.

    A loss that divides its local sum by such a count, once its gradients are averaged over the processes, equals the
    loss of one process holding the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return counts
    stacked = torch.stack([count.detach().float() for count in counts])
    dist.all_reduce(stacked)
    return tuple((stacked / dist.get_world_size()).unbind())
