"""Batch shaping and the sparsity term: what keeps gates conditional, and what closes them.

Batch shaping (Bejnordi et al. 2020, section 3.2) pulls the distribution of every gate's probability over the batch
towards a Beta distribution with most of its mass at 0 and 1, by the squared distance of the distribution functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vireo.errors import InputError

from .collectives import gather_rows, world_size

ALPHA, BETA = 0.6, 0.4
LARGEST = 5  # beyond, the polynomial loses accuracy


def batch_shaping_loss(logits: Tensor, alpha: float = ALPHA, beta: float = BETA) -> Tensor:
    """Distance of the gates' distribution over the batch from ``Beta(alpha, beta)``.

    With the ``B`` probabilities of a gate in ascending order, ``e_i = i / (B + 1)`` and ``F`` the distribution function
    of Beta: the sum over all gates and ``i`` of ``(e_i - F(p_(i)))^2 / B``. The loss of several blocks is that of their
    logits side by side, so one call serves the whole network. The gradient is the closed form in the logits, finite
    everywhere and 0 where a probability is 0 or 1; there is no second derivative.

    With several processes the order is that over the global batch: the value is the same on all of them, and the
    average of their gradients is that of one process. All of them must call it.

    Args:
        logits: ``(B, G)``, of all gates. Infinite ones are probabilities 0 and 1; one that is not a number makes the
            loss so. A batch of one compares every gate with ``e = 1/2``, which pulls it to the median of Beta.
        alpha, beta: parameters of the Beta distribution, in (0, 5].

    Returns:
        Scalar, float64 for float64 logits, else float32.

    Raises:
        InputError: logits that are not ``(B, G)``, or a parameter out of range.
    """
    if logits.dim() != 2:
        raise InputError(f"logits have shape {tuple(logits.shape)}", "batch_shaping_loss", "give (batch, gates)")
    _check_parameters(alpha, beta)
    loss: Tensor = _BatchShaping.apply(logits if logits.dtype == torch.float64 else logits.float(), alpha, beta)
    return loss


def beta_cdf_from_logits(logits: Tensor, alpha: float = ALPHA, beta: float = BETA) -> Tensor:
    """The distribution function of ``Beta(alpha, beta)`` at ``sigmoid(logits)``; no gradient.

    Args:
        logits: any shape, float32 or float64. From logits also the upper tail keeps its accuracy.
        alpha, beta: parameters in (0, 5].

    Returns:
        In [0, 1], shape and dtype of ``logits``.

    Raises:
        InputError: a parameter out of range.
    """
    _check_parameters(alpha, beta)
    with torch.no_grad():
        return _cdf_and_slope(logits, alpha, beta)[0]


def expected_gate_rate(logits: Sequence[Tensor]) -> Tensor:
    """Mean probability of a gate to be open over all gates of a network and the batch, the L0 term.

    Args:
        logits: ``(B, C)`` of every block.

    Returns:
        Scalar in [0, 1], of this process's samples alone (see :func:`fgc.collectives.batch_share`).
    """
    return torch.cat([block.flatten() for block in logits]).sigmoid().mean()


class _BatchShaping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, logits: Tensor, alpha: float, beta: float) -> Tensor:
        start, (everywhere,) = gather_rows(logits)
        batch = len(everywhere)
        rows = everywhere.t().contiguous()  # (G, B)
        order = _ascending_order(rows)
        ranks = torch.arange(1, batch + 1, dtype=rows.dtype, device=rows.device) / (batch + 1)
        cdf, slope = _cdf_and_slope(rows, alpha, beta)
        difference = torch.empty_like(rows).scatter_(1, order, ranks.expand(rows.shape)).sub_(cdf)
        # gradients are averaged over processes, and only this one sends that of its samples
        grad = slope.mul_(difference).mul_(-2 / batch * world_size())
        ctx.save_for_backward(grad[:, start : start + len(logits)].t())
        return difference.square_().sum() / batch

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * upstream, None, None


def _ascending_order(rows: Tensor) -> Tensor:
    """Where the numbers of each row stand in ascending order; equal ones in the order of the row, NaN at an end."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32:
        # numpy sorts integers with vector instructions, here several times faster than torch sorts with indices:
        # the float's bits, as an integer of the same order, above its position
        bits = rows.view(torch.int32)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        packed = (ordered.long() << 32).add_(torch.arange(rows.shape[1]))
        packed.numpy().sort(axis=1)
        return packed.bitwise_and_(0xFFFFFFFF)
    return rows.argsort(dim=1, stable=True)


def _cdf_and_slope(z: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """``F(sigmoid(z))`` and its derivative in ``z``, ``p^alpha (1 - p)^beta / B(alpha, beta)``.

    ``I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) * sum_n (a + b)_n / (a + 1)_n x^n``, whose terms are all positive, so that
    nothing cancels in float32. It is used for the tail ``x <= 1/2`` of either side, with a and b exchanged above.
    """
    odds = z.abs().neg_().exp_()  # x / (1 - x) of the smaller of p and 1 - p
    x = odds / (1 + odds)
    log_slope = z.clamp(max=0).mul_(alpha).sub_(z.clamp(min=0), alpha=beta).sub_(odds.log1p_(), alpha=alpha + beta)
    slope = log_slope.sub_(_log_beta(alpha, beta)).exp_()
    upper = z.sign().clamp_(min=0)
    tail = _polynomial(x, _series(alpha, beta)).lerp_(_polynomial(x, _series(beta, alpha)), upper).mul_(slope)
    return tail.lerp_(1 - tail, upper), slope


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Horner's rule; lowest power first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value.mul_(x).add_(coefficient)
    return value


@lru_cache
def _series(a: float, b: float, accuracy: float = 1e-8) -> tuple[float, ...]:
    """A polynomial that is ``sum_n (a + b)_n / (a + 1)_n x^n / a`` on [0, 1/2]; lowest power first.

    Interpolated at Chebyshev's nodes: for the paper's parameters half as many terms as the series takes there.
    """

    def series(x: np.ndarray) -> np.ndarray:
        total, term, n = np.zeros_like(x), np.full_like(x, 1 / a), 0
        while n < a + b or (term > 1e-16 * total).any():
            total = total + term
            term = term * x * ((a + b + n) / (a + 1 + n))
            n += 1
        return total

    interpolated = np.polynomial.Chebyshev.interpolate(series, 24, domain=[0, 0.5])
    kept = interpolated.trim(accuracy * interpolated.coef[0])
    return tuple(kept.convert(kind=np.polynomial.Polynomial).coef.tolist())


def _log_beta(alpha: float, beta: float) -> float:
    return math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)


def _check_parameters(alpha: float, beta: float) -> None:
    if not (0 < alpha <= LARGEST and 0 < beta <= LARGEST):
        raise InputError(f"alpha {alpha}, beta {beta}", "batch shaping", f"give parameters in (0, {LARGEST}]")
