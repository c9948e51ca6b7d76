"""What the losses exchange between processes: the rows of every process, and each process's share of the batch.

All of it is the identity without a process group of more than one. A loss here is meant for gradients that are averaged
over processes (DistributedDataParallel, Fabric): the average equals the gradient of one process with the whole batch,
also where the processes hold different numbers of samples.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def batch_share(n_local: int, device: torch.device | str) -> Tensor | float:
    """The factor of a mean over this process's samples: ``n_local * world_size / n_global``.

    The mean over processes of ``batch_share * local mean`` is the mean over the global batch. Sends one number and does
    not wait for the device.

    Args:
        n_local: samples of this process.
        device: where the numbers are exchanged.

    Returns:
        1.0 for a single process, else a float32 scalar; their mean over processes is 1.
    """
    if world_size() == 1:
        return 1.0
    total = torch.tensor(float(n_local), device=device)
    dist.all_reduce(total)
    return n_local * world_size() / total


def gather_rows(*tensors: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    """The rows of all processes, in the order of ranks.

    Args:
        tensors: ``(B, ...)`` with the same ``B`` on this process; on another one ``B`` may differ.

    Returns:
        Where this process's rows start, and the gathered tensors, without gradient. Every process holds the same rows
        in the same order. Processes may have different ``B``, so the sizes are read back: with several processes, and
        only then, this waits for the device.
    """
    if world_size() == 1:
        return 0, tuple(tensor.detach() for tensor in tensors)
    n_local = len(tensors[0])
    counts = [torch.zeros(1, dtype=torch.int64, device=tensors[0].device) for _ in range(world_size())]
    dist.all_gather(counts, torch.full_like(counts[0], n_local))
    sizes = [int(count) for count in torch.cat(counts).tolist()]
    gathered = []
    for tensor in tensors:
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[:n_local] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        gathered.append(torch.cat([part[:size] for part, size in zip(parts, sizes)]))
    return sum(sizes[: dist.get_rank()]), tuple(gathered)
