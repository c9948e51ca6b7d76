"""Schedules against closed forms and torch's own schedulers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vireo.engine.schedule import build_schedule, constant, cosine, linear, multistep, poly, step, with_warmup
from vireo.errors import InputError


def torch_rates(make: Callable[[Any], Any], steps: int) -> list[float]:
    """The rates that a torch scheduler gives a group with lr 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_multistep_and_warmup_are_torchs() -> None:
    schedule = with_warmup(multistep([8, 11], steps_per_epoch=10), steps=25, start=0.001)
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.ChainedScheduler(
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.001, total_iters=25),
                torch.optim.lr_scheduler.MultiStepLR(optimizer, [80, 110]),
            ]
        ),
        120,
    )
    assert [schedule(k) for k in range(120)] == pytest.approx(expected, rel=1e-9)


def test_step_and_cosine_are_torchs() -> None:
    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 30), 100)
    assert [step(3, 10)(k) for k in range(100)] == pytest.approx(expected, rel=1e-9)
    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100), 100)
    assert [cosine(100)(k) for k in range(100)] == pytest.approx(expected, rel=1e-9)


def test_published_detection_schedule() -> None:
    schedule = build_schedule("multistep", epochs=12, steps_per_epoch=7330, warmup_steps=500, milestones=[8, 11])
    assert schedule(0) == pytest.approx(0.001)
    assert schedule(250) == pytest.approx(0.001 + 0.999 * 0.5)
    assert schedule(500) == schedule(8 * 7330 - 1) == 1.0
    assert schedule(8 * 7330) == pytest.approx(0.1)
    assert schedule(11 * 7330) == pytest.approx(0.01)


def test_cosine_and_linear_begin_after_the_warmup() -> None:
    warm = build_schedule("cosine", epochs=10, steps_per_epoch=11, warmup_steps=10, warmup_start=0.0, final=0.1)
    assert warm(5) == pytest.approx(0.5)
    assert warm(10) == 1.0
    assert warm(60) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert warm(110) == warm(1000) == pytest.approx(0.1)
    assert linear(20, start=10)(15) == pytest.approx(0.5)
    assert constant()(10**9) == 1.0


def test_poly() -> None:
    """torch's scheduler falls to 0 one step later, and has no other end."""
    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.PolynomialLR(optimizer, 49, power=0.9), 60)
    assert [poly(50)(k) for k in range(60)] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert poly(50, final=0.1)(0) == 1.0
    assert poly(50, final=0.1)(49) == poly(50, final=0.1)(10**6) == 0.1
    assert poly(3, power=2, final=0.2)(1) == pytest.approx(0.2 + 0.8 * 0.25)
    assert poly(1)(0) == 1.0


def test_unknown_schedule_names_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown schedule 'cosin'.*cosine"):
        build_schedule("cosin", epochs=1, steps_per_epoch=1)
