"""Counter-based randomness: every draw is a function of (seed, epoch, index), never of worker, rank or history.

A *key* names one sample of one epoch of one run. On the CPU, :func:`seeded` runs any code under generators seeded from
the key; on a device, :func:`counter_uniform` hashes keys straight into numbers, for a whole batch at once and with the
same bits on CPU and CUDA. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) in wrapping int64.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _mix(x: int) -> int:
    """SplitMix64 finaliser of an unsigned 64-bit integer."""
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def _mix_array(x: np.ndarray) -> np.ndarray:
    """:func:`_mix` of a uint64 array."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    x = x ^ (x >> np.uint64(31))
    return x


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x


def _mix_tensor(x: Tensor) -> Tensor:
    """:func:`_mix` of an int64 tensor: products wrap, and masking makes the arithmetic shifts logical ones."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _signed(_MIX_1)
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _signed(_MIX_2)
    return x ^ ((x >> 31) & (2**33 - 1))


def counter_key(seed: int, epoch: int, index: int) -> int:
    """The key of sample ``index`` in ``epoch`` of the run ``seed``: an integer in [0, 2**63)."""
    key = 0
    for part in (seed, epoch, index):
        key = _mix((key + _GOLDEN + part) & _MASK)
    return key >> 1


def batch_key(seed: int, epoch: int, batch: int) -> int:
    """The key of what is drawn once for batch number ``batch`` of an epoch, the same on all processes."""
    return counter_key(seed, epoch, -1 - batch)  # negative: not the key of any sample


def counter_keys(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """:func:`counter_key` of many indices at once: (n,) integers in, (n,) int64 out."""
    prefix = 0
    for part in (seed, epoch):
        prefix = _mix((prefix + _GOLDEN + part) & _MASK)
    offset = np.uint64((prefix + _GOLDEN) & _MASK)
    return (_mix_array(np.asarray(indices, dtype=np.uint64) + offset) >> np.uint64(1)).astype(np.int64)


def counter_uniform(keys: Tensor, stream: int | str, n: int) -> Tensor:
    """``n`` uniform numbers per key, the same bits on every device.

    Args:
        keys: int64 (B,), one key per sample (:func:`counter_key`).
        stream: what the numbers are for; different streams of one key are independent. A string is hashed.
        n: how many numbers.

    Returns:
        float32 (B, n) in [0, 1), multiples of 2**-24, on the device of ``keys``.
    """
    number = zlib.crc32(stream.encode()) + 2**32 if isinstance(stream, str) else stream
    start = _mix_tensor(keys ^ _signed(_mix((number + _GOLDEN) & _MASK)))
    counters = torch.arange(1, n + 1, device=keys.device) * _signed(_GOLDEN)
    bits = _mix_tensor(start[:, None] + counters)
    return ((bits >> 40) & (2**24 - 1)).float() * 2.0**-24


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seed the global CPU generators of torch, numpy and python from ``key``, and put their old states back at exit.

    CUDA generators are left alone, so this is safe in a forked worker.
    """
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_generator = np.random.get_bit_generator()  # type: ignore[attr-defined] # exchanged: far cheaper than its state
    torch.default_generator.manual_seed(key)
    np.random.set_bit_generator(np.random.MT19937(key))  # type: ignore[attr-defined]
    random.seed(key)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_bit_generator(numpy_generator)  # type: ignore[attr-defined]
        random.setstate(python_state)
