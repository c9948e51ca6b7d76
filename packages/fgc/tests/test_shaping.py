"""Batch shaping away from the reference numbers: the closed form, the tails, and logits at their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fgc_golden import close
from scipy import stats
from torch import Tensor

from fgc.shaping import batch_shaping_loss, beta_cdf_from_logits, expected_gate_rate
from vireo.errors import InputError

PARAMETERS = [(0.6, 0.4), (0.4, 0.6), (1.0, 1.0), (2.0, 5.0), (5.0, 2.0), (0.05, 3.0)]


@pytest.mark.parametrize(("alpha", "beta"), PARAMETERS)
def test_distribution_function_is_that_of_scipy(alpha: float, beta: float) -> None:
    z = torch.linspace(-30, 30, 1001, dtype=torch.float64)
    p = torch.sigmoid(z)
    for dtype, tolerance in {torch.float64: 1e-6, torch.float32: 3e-6}.items():
        ours = beta_cdf_from_logits(z.to(dtype), alpha, beta)
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.double(), stats.beta.cdf(p, alpha, beta), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("alpha", "beta"), PARAMETERS)
def test_tails_keep_their_relative_accuracy(alpha: float, beta: float) -> None:
    """The distribution function does not round to 0 in the lower tail, where float32 probabilities are tiny."""
    z = torch.linspace(-20, -5, 50)
    expected = stats.beta.cdf(torch.sigmoid(z.double()), alpha, beta)
    np.testing.assert_allclose(beta_cdf_from_logits(z, alpha, beta), expected, rtol=3e-5, atol=1e-30)


def numeric_gradient(logits: Tensor, alpha: float, beta: float, step: float = 1e-5) -> Tensor:
    gradient = torch.empty_like(logits)
    for position in np.ndindex(*logits.shape):
        moved = [logits.clone() for _ in range(2)]
        moved[0][position] += step
        moved[1][position] -= step
        up, down = (batch_shaping_loss(z, alpha, beta) for z in moved)
        gradient[position] = (up - down) / (2 * step)
    return gradient


@pytest.mark.parametrize(("alpha", "beta"), PARAMETERS)
def test_gradient_is_the_derivative_of_the_loss(alpha: float, beta: float) -> None:
    logits = (3 * torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).requires_grad_()
    batch_shaping_loss(logits, alpha, beta).backward()
    assert logits.grad is not None
    close(logits.grad, numeric_gradient(logits.detach(), alpha, beta), 3e-5)


def test_loss_is_the_sum_over_columns() -> None:
    logits = torch.randn(20, 6)
    parts = [batch_shaping_loss(part) for part in logits.split([1, 2, 3], 1)]
    close(batch_shaping_loss(logits), torch.stack(parts).sum(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_of_the_samples_does_not_matter(dtype: torch.dtype) -> None:
    logits = torch.randn(32, 5, dtype=dtype)
    shuffle = torch.randperm(32)
    gradients = []
    for z in (logits[shuffle], logits):
        z.requires_grad_()
        batch_shaping_loss(z).backward()
        assert z.grad is not None
        gradients.append(z.grad)
    assert torch.equal(gradients[0], gradients[1][shuffle])


def test_samples_drawn_from_the_target_cost_little() -> None:
    drawn = torch.from_numpy(stats.beta.rvs(0.6, 0.4, size=(4000, 2), random_state=0))
    assert batch_shaping_loss(torch.logit(drawn)) < 1e-3
    assert batch_shaping_loss(torch.full((4000, 2), 3.0)) > 0.3


def test_ties_keep_their_ranks_in_order_of_the_batch() -> None:
    for dtype in (torch.float32, torch.float64):
        logits = torch.zeros(4, 1, dtype=dtype, requires_grad=True)
        batch_shaping_loss(logits).backward()
        assert logits.grad is not None
        assert (logits.grad.flatten().diff() < 0).all()  # a higher rank asks for a higher logit


def test_infinite_logits_are_certain_gates() -> None:
    logits = torch.tensor([[math.inf], [-math.inf], [0.3], [80.0], [-80.0]], requires_grad=True)
    loss = batch_shaping_loss(logits)
    loss.backward()
    assert logits.grad is not None
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:2] == 0).all()
    assert logits.grad[2] != 0


def test_a_logit_that_is_not_a_number_shows_in_the_loss() -> None:
    for dtype in (torch.float32, torch.float64):
        logits = torch.randn(5, 3, dtype=dtype)
        logits[2, 1] = math.nan
        assert batch_shaping_loss(logits).isnan()


def test_a_batch_of_one_is_pulled_to_the_median() -> None:
    median = math.log(stats.beta.median(0.6, 0.4) / (1 - stats.beta.median(0.6, 0.4)))
    logits = torch.tensor([[median, median - 1, median + 1]], requires_grad=True)
    batch_shaping_loss(logits).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs() < 1e-6
    assert logits.grad[0, 1] < 0 < logits.grad[0, 2]


@pytest.mark.parametrize("parameters", [(0.0, 0.4), (0.6, -1.0), (math.nan, 0.4), (0.6, 6.0)])
def test_parameters_out_of_range_are_refused(parameters: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="alpha"):
        batch_shaping_loss(torch.zeros(4, 2), *parameters)
    with pytest.raises(InputError, match="alpha"):
        beta_cdf_from_logits(torch.zeros(4), *parameters)


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(4, 2, 1, 1\)"):
        batch_shaping_loss(torch.zeros(4, 2, 1, 1))


def test_expected_gate_rate_weighs_every_gate_alike() -> None:
    logits = [torch.randn(5, 16), torch.randn(5, 64)]
    close(expected_gate_rate(logits), torch.cat(logits, 1).sigmoid().mean(), 1e-6)
