"""A memory bank: one slowly moving unit vector per training sample (Wu et al. 2018, section 3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError


class MemoryBank(nn.Module):
    """``num_samples`` rows, addressed by the samples' positions in the data set.

    Args:
        num_samples: rows, the size of the training set.
        dim: length of a row.
        momentum: share of the old row in an update, in [0, 1].
        dtype: of the stored rows; ``torch.bfloat16`` halves the memory. Updates are computed in float32.

    Attributes:
        memory: ``(num_samples, dim)``, a buffer of the checkpoint. Starts uniform in (-s, s), ``s = 1/sqrt(dim/3)``, so
            that rows not yet visited are near, but not of, unit length.

    Raises:
        InputError: a size that is not positive, or a momentum outside [0, 1].
    """

    memory: Tensor

    def __init__(self, num_samples: int, dim: int, momentum: float = 0.5, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if num_samples < 1 or dim < 1:
            raise InputError(f"{num_samples} samples of {dim} numbers", "MemoryBank", "give positive sizes")
        if not 0 <= momentum <= 1:
            raise InputError(f"momentum {momentum}", "MemoryBank", "give a number in [0, 1]")
        self.momentum = momentum
        bound = 1 / math.sqrt(dim / 3)
        self.register_buffer("memory", torch.empty(num_samples, dim, dtype=dtype).uniform_(-bound, bound))

    def check(self, indices: Tensor) -> None:
        """Refuse row numbers outside the bank.

        Those on the CPU raise at once. On a GPU that would wait for the device in every step, so there the assertion is
        queued and stops the program at its next synchronisation.

        Raises:
            InputError: an index that is negative or not below ``num_samples``.
        """
        rows = len(self.memory)
        if indices.device.type == "cpu":
            outside = indices[(indices < 0) | (indices >= rows)]
            if len(outside):
                raise InputError(
                    f"index {int(outside[0])} outside a bank of {rows} rows",
                    "MemoryBank",
                    "give num_samples of the whole training set and indices into it",
                )
        else:
            torch._assert_async(((indices >= 0) & (indices < rows)).all(), f"index outside a bank of {rows} rows")

    @torch.no_grad()
    def update(self, indices: Tensor, queries: Tensor) -> None:
        """``row <- momentum * row + (1 - momentum) * query``, divided by its L2 norm, for the rows of a batch.

        - Of an index that occurs several times, its last occurrence counts.
        - A row that comes out as zero (a zero query on a zero row) is stored as zeros.
        - A row whose query is not finite is left as it was.

        Args:
            indices: int64 ``(B,)``.
            queries: ``(B, dim)``, of any length: the mixture is of the query as it is, so a long query outweighs the
                old row.

        Raises:
            InputError: an index outside the bank (see :meth:`check`).
        """
        self.check(indices)
        old = self.memory.index_select(0, indices)
        new = F.normalize(old.float().lerp(queries.float(), 1 - self.momentum), eps=torch.finfo(torch.float32).tiny)
        new = torch.where(new.isfinite().all(1, keepdim=True), new.to(old.dtype), old)
        # every occurrence of an index writes what the last one would, so the order of writing does not matter
        ascending, order = indices.sort(stable=True)
        last = order[torch.searchsorted(ascending, indices, right=True) - 1]
        self.memory.index_copy_(0, indices, new[last])
