"""Linear probe: optimum, choice of the penalty, determinism, bad input."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vireo.errors import InputError
from vireo.evaluation import Features, linear_probe, probe


def made(features: Tensor, labels: Tensor) -> Features:
    return Features(features, labels, torch.arange(len(labels)))


def correlated(n: int, classes: int, seed: int, noise: float = 1.0, width: int = 24) -> Features:
    """Features with a strong common direction, as a network's; the labels depend linearly on them, up to noise."""
    fixed = torch.Generator().manual_seed(99)
    mixing, common = torch.randn(12, width, generator=fixed), 5 * torch.randn(1, width, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 12, generator=generator)
    labels = (latent[:, :classes] + noise * torch.randn(n, classes, generator=generator)).argmax(1)
    features = latent @ mixing + torch.randn(n, 1, generator=generator) @ common
    return made(features + 0.1 * torch.randn(n, width, generator=generator) + 3, labels)


def plain_objective(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float) -> Tensor:
    return functional.cross_entropy(x @ weight + bias, labels) + 0.5 * l2 * weight.square().sum()


def zeros(x: Tensor, classes: int) -> probe.Solution:
    return probe.Solution(x.new_zeros(x.shape[1], classes), x.new_zeros(classes))


@pytest.mark.parametrize("block", [2**26, 20])
def test_gradient_is_the_objectives(block: int) -> None:
    data = correlated(50, 4, seed=1)
    x = data.features.double()
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*shape, generator=generator).double() for shape in ((24, 4), (4,)))
    weight.requires_grad_(), bias.requires_grad_()
    expected = plain_objective(x, data.labels, weight, bias, 0.3)
    expected.backward()
    with torch.no_grad(), mock.patch.object(probe, "_LOGITS_A_BLOCK", block):
        loss, weight_grad, bias_grad = probe.objective(x, data.labels, weight, bias, 0.3)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(weight_grad, weight.grad)
    torch.testing.assert_close(bias_grad, bias.grad)


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_at_the_optimum_the_gradient_vanishes(l2: float) -> None:
    data = correlated(200, 4, seed=1)
    with torch.no_grad():
        x, _ = probe._principal(data.features, torch.device("cpu"))
        solution = probe.fit(x, data.labels, l2, zeros(x, 4))
    weight, bias = (part.requires_grad_() for part in solution)
    plain_objective(x, data.labels, weight, bias, l2).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 2e-5
    assert float(bias.grad.abs().max()) < 2e-5


def test_the_classifier_is_that_of_standardised_features() -> None:
    """Principal components and scaling only speed it up: plain gradient descent on the definition ends at the same."""
    train, test, l2 = correlated(200, 4, seed=1), correlated(100, 4, seed=2), 0.1
    with torch.no_grad():
        x, mapped = probe._principal(train.features, torch.device("cpu"))
        fast = probe.fit(x, train.labels, l2, zeros(x, 4))
    mean, std = train.features.double().mean(0), train.features.double().std(0, correction=0)
    standardised = [(part.features.double() - mean) / std for part in (train, test)]
    weight, bias = torch.zeros(24, 4).double().requires_grad_(), torch.zeros(4).double().requires_grad_()
    for _ in range(3000):
        loss = plain_objective(standardised[0], train.labels, weight, bias, l2)
        gradients = torch.autograd.grad(loss, (weight, bias))
        with torch.no_grad():
            weight -= 0.1 * gradients[0]
            bias -= 0.1 * gradients[1]
    with torch.no_grad():
        expected = (standardised[1] @ weight + bias).softmax(1)
        actual = (mapped(test.features) @ fast.weight + fast.bias).softmax(1)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_result() -> None:
    train, test = correlated(400, 8, seed=1), correlated(300, 8, seed=2)
    result = linear_probe(train, test, 8, l2_grid=(1e-4, 1e-2, 1.0, 100.0))
    assert list(result) == ["top1_error", "top5_error", "l2", "holdout_errors"]
    assert list(result["holdout_errors"]) == ["100", "1", "0.01", "0.0001"]
    assert result["l2"] in (1e-4, 1e-2, 1.0)  # the greatest leaves next to nothing of the weights
    assert result["holdout_errors"][f"{result['l2']:g}"] == min(result["holdout_errors"].values())
    assert result["top5_error"] < result["top1_error"] < 100 * 7 / 8 - 20
    assert linear_probe(train, test, 8, l2_grid=(1e-4, 1e-2, 1.0, 100.0)) == result


def test_float32_for_large_sets() -> None:
    train, test = correlated(400, 8, seed=1), correlated(300, 8, seed=2)
    double = linear_probe(train, test, 8, l2_grid=(0.01,))
    with mock.patch.object(probe, "_DOUBLE_UP_TO", 0):
        single = linear_probe(train, test, 8, l2_grid=(0.01,))
    assert single["top1_error"] == pytest.approx(double["top1_error"], abs=0.7)  # two samples


def test_separable_classes_are_separated() -> None:
    labels = torch.arange(90) % 3
    features = torch.eye(3)[labels] * 10 + torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    constant = torch.cat([features, torch.full((90, 1), 0.1)], 1)  # a feature without variance
    data = made(constant, labels)
    result = linear_probe(data, data, 3)
    assert result["top1_error"] == 0
    assert "top5_error" not in result
    assert result["l2"] == 1.0  # of equal errors, the strongest penalty


def test_the_test_set_decides_nothing() -> None:
    train, test = correlated(300, 4, seed=1), correlated(100, 4, seed=2)
    other = made(test.features.flip(0), test.labels)
    results = [linear_probe(train, part, 4) for part in (test, other)]
    assert results[0]["l2"] == results[1]["l2"]
    assert results[0]["holdout_errors"] == results[1]["holdout_errors"]
    assert results[0]["top1_error"] != results[1]["top1_error"]


def test_held_out_samples() -> None:
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 2)
    held = probe._held_out(labels, 3, 0.2, seed=0)
    assert labels[held].bincount().tolist() == [2, 4, 1]
    assert torch.equal(held, probe._held_out(labels, 3, 0.2, seed=0))
    assert not torch.equal(held, probe._held_out(labels, 3, 0.2, seed=1))


GOOD = made(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (made(GOOD.features, GOOD.labels + 1), {}, "label 3 of row 2 is outside 0 to 2"),
        (made(GOOD.features * torch.nan, GOOD.labels), {}, "row 0 .sample 0. is not finite"),
        (made(GOOD.features[:2], GOOD.labels[:2]), {}, "class 0 has 1 samples, of which 1 would be held out"),
        (made(GOOD.features, GOOD.labels % 2), {}, "class 2 has 0 samples"),
        (GOOD, {"holdout": 0.9}, "class 0 has 4 samples, of which 4 would be held out"),
        (GOOD, {"holdout": 0.0}, "holdout 0.0 is not between"),
        (GOOD, {"l2_grid": (0.1, 0.0)}, "is not all positive"),
        (GOOD, {"l2_grid": ()}, "is not all positive"),
    ],
)
def test_bad_input(train: Features, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        linear_probe(train, GOOD, 3, **options)


def test_test_labels_out_of_range() -> None:
    with pytest.raises(InputError, match="test features: label 3 of row 2 is outside 0 to 2"):
        linear_probe(GOOD, made(GOOD.features, GOOD.labels + 1), 3)
