"""AdamW, its scaled rates and the schedule with warm-up; blocks compiled one by one."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from vireo.engine import adamw, compile_blocks, min_lr_factor, scaled_rate, schedule_for, weight_decay_groups
from vireo.errors import InputError


def optim(**changes: Any) -> Any:
    settings = {"lr": 1e-3, "min_lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 0.05, "warmup_epochs": 2}
    return SimpleNamespace(**{**settings, **changes})


def test_rates_scale_with_the_batch() -> None:
    assert scaled_rate(optim(), 256) == 1e-3
    assert scaled_rate(optim(), 64) == pytest.approx(2.5e-4)
    assert min_lr_factor(optim(), 64) == pytest.approx(0.04)
    assert min_lr_factor(optim(min_lr=1.0), 64) == 1.0
    for lr in (0, -1e-3):
        with pytest.raises(InputError, match=f"optim.lr: a rate of {lr} trains nothing"):
            scaled_rate(optim(lr=lr), 64)


def test_adamw_keeps_the_groups() -> None:
    model = nn.Linear(3, 2)
    optimizer = adamw(weight_decay_groups(model, 0.05, 5e-4), optim(), 128)
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.defaults["fused"]
    assert {group["lr"] for group in optimizer.param_groups} == {5e-4}
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0, 0.05]


def test_schedules_of_beit_and_of_mae() -> None:
    """Ten epochs of four steps, two of them warm-up: the full rate at the last of its steps, or at the one behind."""
    curves = {name: schedule_for(optim(), 10, 4, 256, name) for name in ("warmup_cosine", "cosine")}
    assert [curves["warmup_cosine"](step) for step in (0, 1, 7, 8)] == pytest.approx([0, 1 / 7, 1, 1])
    assert [curves["cosine"](step) for step in (0, 1, 7, 8)] == pytest.approx([0, 1 / 8, 7 / 8, 1])
    for curve in curves.values():
        assert curve(24) == pytest.approx(0.01 + 0.99 * 0.5)  # half-way
        assert curve(32) == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(0.75 * math.pi)))
        assert curve(40) == pytest.approx(0.01)


class Block(nn.Linear):
    """A linear layer that compiles by itself."""


class Wrapper(nn.Sequential):
    """A block of blocks."""


def test_blocks_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Block(2, 2)
    model = nn.Sequential(nn.Linear(2, 2), Block(2, 2), Wrapper(inner, nn.ReLU()))
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    compile_blocks(model, Block)
    assert compiled == [model[1], inner]
    compiled.clear()
    compile_blocks(model, (Block, Wrapper))
    assert compiled == [model[1], model[2]]
    assert torch.is_tensor(model(torch.ones(1, 2)))
