"""Losses, accuracy, cutout and learning rates of the authors' code, from ``misc.npz``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from if_nas_golden import close, load

from if_nas.build import training_losses
from if_nas.cutout import cutout_mask
from if_nas.evaluation import evaluate
from if_nas.learning_rates import epoch_schedule
from vireo.testing import tensor

TOLERANCE = 1e-6
GOLDEN = load("misc")
LABELS = (5 * torch.arange(12) + 1) % 20


def logits() -> torch.Tensor:
    return tensor("input.logits", (12, 20), 10)


def test_every_array_is_compared() -> None:
    assert set(GOLDEN) == {
        "label_smooth_loss",
        "label_smooth_grad",
        "top1_top5",
        "cutout_centres_yx",
        "cutout_masks",
        "search_linear_lr",
        "retrain_linear_lr",
    }


def test_label_smoothing() -> None:
    leaf = logits().requires_grad_()
    losses = training_losses(leaf, LABELS, 0.1, 0.4)
    assert list(losses) == ["loss_ce"]
    losses["loss_ce"].backward()
    close(losses["loss_ce"], GOLDEN["label_smooth_loss"], TOLERANCE)
    assert leaf.grad is not None
    close(leaf.grad, GOLDEN["label_smooth_grad"], TOLERANCE)


def test_auxiliary_loss_is_the_same_loss_weighted() -> None:
    losses = training_losses((logits().flip(1), logits()), LABELS, 0.1, 0.4)
    close(losses["loss_aux"] / 0.4, GOLDEN["label_smooth_loss"], TOLERANCE)
    assert losses["loss_ce"] != losses["loss_aux"] / 0.4


@pytest.mark.parametrize("sizes", [[12], [5, 5, 2]])
def test_accuracy(sizes: list[int]) -> None:
    """Also when it is counted in several batches of different sizes."""
    batches = [(part, {"label": labels}) for part, labels in zip(logits().split(sizes), LABELS.split(sizes))]
    found = evaluate(lambda images: images, batches)
    close(np.array([found["top1"], found["top5"]]), GOLDEN["top1_top5"], TOLERANCE)


def test_cutout() -> None:
    centres = torch.from_numpy(GOLDEN["cutout_centres_yx"])
    assert np.array_equal(cutout_mask(centres, 32, 32, 16).numpy(), GOLDEN["cutout_masks"].astype(bool))


@pytest.mark.parametrize(
    ("name", "array", "rate"), [("linear", "search_linear_lr", 0.1), ("linear_tail", "retrain_linear_lr", 0.5)]
)
def test_learning_rates(name: str, array: str, rate: float) -> None:
    epochs = len(GOLDEN[array])
    factor = epoch_schedule(name, epochs, steps_per_epoch=3)
    close(np.array([rate * factor(3 * epoch) for epoch in range(epochs)]), GOLDEN[array], TOLERANCE)
    assert all(factor(3 * epoch) == factor(3 * epoch + 2) for epoch in range(epochs))
