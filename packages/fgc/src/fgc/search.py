"""The largest inner products with the rows of a bank, without holding all products."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

SAMPLE = 4096


def default_chunk(batch: int, device: torch.device) -> int:
    """Rows of a bank to look at together: products that stay in a processor's cache, or few launches on a GPU."""
    return 2048 if device.type == "cpu" else max(2**24 // max(batch, 1), 1)


def bank_chunks(memory: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """First row and float32 rows of each piece of a bank."""
    for start in range(0, len(memory), chunk):
        yield start, memory[start : start + chunk].float()


def largest_products(query: Tensor, memory: Tensor, count: int, chunk: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of ``query @ memory^T`` in each row.

    Args:
        query: float32 ``(B, C)``.
        memory: ``(N, C)``, of any floating dtype.
        count: at most ``N``.
        chunk: rows of ``memory`` at a time.

    Returns:
        The products and the rows of ``memory`` they belong to, both ``(B, count)``, in no order.
    """
    if query.device.type == "cpu" and len(memory) >= 4 * max(SAMPLE, count):
        found = _above_threshold(query, memory, count, chunk)
        if found is not None:
            return found
    best = query.new_empty(len(query), 0)
    where = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for start, rows in bank_chunks(memory, max(chunk, count)):
        scores, local = (query @ rows.t()).topk(min(count, len(rows)), sorted=False)
        best, where = torch.cat([best, scores], 1), torch.cat([where, local + start], 1)
        if best.shape[1] > count:
            best, kept = best.topk(count, sorted=False)
            where = where.gather(1, kept)
    return best, where


def _above_threshold(query: Tensor, memory: Tensor, count: int, chunk: int) -> tuple[Tensor, Tensor] | None:
    """:func:`largest_products` by a threshold that a sample of the bank puts a little below the result.

    Comparing all products with a number is far cheaper than selecting among them; the selection is then among the few
    that passed. If in some row fewer than ``count`` did, or very many, the answer is None: what is returned is exact.
    """
    sample = memory[:: -(-len(memory) // SAMPLE)].float()
    expected = count * len(sample) / len(memory)
    rank = min(math.ceil(expected + 4 * math.sqrt(expected) + 1), len(sample))  # four standard deviations
    threshold = (query @ sample.t()).topk(rank, sorted=False).values.amin(1, keepdim=True)
    capacity = 3 * rank * len(memory) // len(sample)
    scores = torch.full((len(query), capacity), -torch.inf)
    where = torch.zeros(len(query), capacity, dtype=torch.int64)
    filled = np.zeros(len(query), dtype=np.int64)
    for start, rows in bank_chunks(memory, chunk):
        products = (query @ rows.t()).numpy()
        flat = np.flatnonzero(products > threshold.numpy())
        row, column = np.divmod(flat, len(rows))
        passed = np.bincount(row, minlength=len(query))
        position = np.arange(len(flat)) + (filled - passed.cumsum() + passed)[row]
        filled += passed
        if filled.max(initial=0) > capacity:
            return None
        scores.numpy()[row, position] = products.ravel()[flat]
        where.numpy()[row, position] = column + start
    if filled.min(initial=count) < count:
        return None
    best, kept = scores[:, : filled.max(initial=count)].topk(count, sorted=False)
    return best, where.gather(1, kept)
