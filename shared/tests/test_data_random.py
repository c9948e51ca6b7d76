"""Counter-based randomness."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vireo.data.random import counter_key, counter_keys, counter_uniform, seeded

numbers = st.integers(0, 2**40)


@given(numbers, numbers, st.lists(numbers, min_size=1, max_size=5))
def test_keys_of_many_indices_are_those_of_each(seed: int, epoch: int, indices: list[int]) -> None:
    expected = [counter_key(seed, epoch, index) for index in indices]
    assert counter_keys(seed, epoch, np.array(indices)).tolist() == expected
    assert all(0 <= key < 2**63 for key in expected)


def test_keys_differ_in_every_part() -> None:
    keys = {counter_key(seed, epoch, index) for seed in range(20) for epoch in range(20) for index in range(20)}
    assert len(keys) == 20**3


def test_the_hash_is_splitmix64() -> None:
    # First output of SplitMix64 with seed 1234567, from the generator's published test vector.
    from vireo.data import random as module

    assert module._mix((1234567 + module._GOLDEN) & module._MASK) == 6457827717110365317
    words = [0, 1, -1, 2**63 - 1, -(2**63), 1234567]
    expected = [module._signed(module._mix(word & module._MASK)) for word in words]
    assert module._mix_tensor(torch.tensor(words)).tolist() == expected


def test_uniform_numbers_are_uniform_and_independent() -> None:
    keys = torch.from_numpy(counter_keys(0, 0, np.arange(20_000)))
    u = counter_uniform(keys, "flip", 3)
    assert u.shape == (20_000, 3)
    assert u.dtype == torch.float32
    assert 0 <= float(u.min()) < float(u.max()) < 1
    histogram = torch.histc(u, 20, 0, 1) / u.numel()
    assert torch.allclose(histogram, torch.full((20,), 0.05), atol=0.004)
    together = torch.cat((u, counter_uniform(keys, "crop", 1), counter_uniform(keys + 1, "flip", 1)), 1)
    assert float((torch.corrcoef(together.T) - torch.eye(5)).abs().max()) < 0.03


def test_uniform_numbers_depend_on_key_and_stream_only() -> None:
    keys = torch.tensor([counter_key(0, 1, 2), counter_key(0, 1, 3)])
    u = counter_uniform(keys, 7, 4)
    assert torch.equal(counter_uniform(keys[1:], 7, 2), u[1:, :2])
    assert not torch.equal(counter_uniform(keys, 8, 4), u)


def test_seeded_repeats_and_leaves_the_global_generators_as_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002

    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    expected = draw()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    with seeded(counter_key(1, 2, 3)):
        first = draw()
    with suppress(KeyError), seeded(counter_key(1, 2, 3)):
        assert draw() == first
        raise KeyError
    with seeded(counter_key(1, 2, 4)):
        assert all(a != b for a, b in zip(draw(), first))
    assert draw() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_uniform_numbers_are_the_same_on_cuda() -> None:
    keys = torch.from_numpy(counter_keys(0, 0, np.arange(1000)))
    assert torch.equal(counter_uniform(keys.cuda(), "flip", 5).cpu(), counter_uniform(keys, "flip", 5))
