"""The schedules of pre-training and fine-tuning against the authors' own (section 4)."""

from __future__ import annotations

import numpy as np
import pytest
from itpn_golden import load

from vireo.engine import build_schedule


def test_pixel_models_rise_and_fall_within_an_epoch() -> None:
    expected = load("lr_schedule")
    epochs = expected["pixel_epoch"].numpy()
    steps = round(1 / min(np.diff(epochs)))
    assert np.allclose(epochs * steps, np.round(epochs * steps))
    schedule = build_schedule(
        "cosine", epochs=100, steps_per_epoch=steps, warmup_steps=5 * steps, warmup_start=0.0, final=5e-6 / 1.6e-3
    )
    found = [1.6e-3 * schedule(round(epoch * steps)) for epoch in epochs]
    np.testing.assert_allclose(found, expected["pixel_lr"].numpy(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("case", "peak", "least", "epochs", "steps", "warmup"),
    [("clip_lr", 5e-4, 1e-6, 20, 37, 3 * 37), ("clip_lr_steps", 1.5e-3, 1e-5, 10, 50, 30)],
)
def test_models_with_a_clip_teacher(case: str, peak: float, least: float, epochs: int, steps: int, warmup: int) -> None:
    expected = load("lr_schedule")[case].numpy()
    schedule = build_schedule(
        "warmup_cosine", epochs=epochs, steps_per_epoch=steps, warmup_steps=warmup, final=least / peak
    )
    assert len(expected) == epochs * steps
    np.testing.assert_allclose([peak * schedule(step) for step in range(len(expected))], expected, rtol=1e-9)
