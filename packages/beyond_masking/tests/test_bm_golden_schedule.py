"""Reference case ``schedule``: the rate of each step in pre-training and fine-tuning, and a small one (section 4)."""

from __future__ import annotations

import pytest
import torch
from bm_golden import close, load

from vireo.engine import build_schedule

CASES = {  # lr, least lr, epochs, steps of an epoch, warm-up in steps, every how many steps are stored
    "pretrain_lr": (1.2e-3, 1e-5, 300, 625, 20 * 625, 1250),
    "finetune_lr": (4e-3, 1e-6, 100, 1251, 5 * 1251, 1251),
    "small": (1.0, 0.1, 10, 4, 2 * 4, 1),
    "small_steps": (1.0, 0.1, 10, 4, 3, 1),
}


def test_every_stored_curve_is_compared() -> None:
    assert load("schedule").keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_schedule(name: str) -> None:
    lr, least, epochs, steps_per_epoch, warmup_steps, every = CASES[name]
    factor = build_schedule(
        "warmup_cosine",
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=warmup_steps,
        final=least / lr,
    )
    rates = [lr * factor(step) for step in range(0, epochs * steps_per_epoch, every)]
    close(torch.tensor(rates, dtype=torch.float64), load("schedule")[name], absolute=1e-12)
