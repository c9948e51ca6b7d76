"""Counts averaged over processes; real groups are in the tests of two processes of the papers that use it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vireo.engine.averages import mean_over_processes
from vireo.testing import full_float32


def test_alone_a_count_is_its_own_mean() -> None:
    one, two = torch.tensor(3.0), torch.tensor(4)
    assert mean_over_processes(one, two) == (one, two)


def test_of_several_processes_all_counts_go_with_one_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges: list[int] = []

    def with_another(stacked: Tensor) -> None:
        exchanges.append(len(stacked))
        stacked += torch.tensor([5.0, 0.0])  # what the other process has

    monkeypatch.setattr("vireo.engine.averages.dist.is_initialized", lambda: True)
    monkeypatch.setattr("vireo.engine.averages.dist.get_world_size", lambda: 2)
    monkeypatch.setattr("vireo.engine.averages.dist.all_reduce", with_another)
    first = torch.tensor(3.0, requires_grad=True)
    means = mean_over_processes(first, torch.tensor(4))
    assert [float(value) for value in means] == [4.0, 2.0]
    assert not any(value.requires_grad for value in means)
    assert exchanges == [2]


def test_full_float32_lasts_as_long_as_it_is_wanted() -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    with full_float32():
        assert [flag.allow_tf32 for flag in flags] == [False, False]
    assert [flag.allow_tf32 for flag in flags] == before
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert [flag.allow_tf32 for flag in flags] == before
