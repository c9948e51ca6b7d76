"""Linear probe: multinomial logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vireo.errors import InputError
from vireo.evaluation.features import Features, check_features
from vireo.evaluation.topk import topk_correct

_LOGITS_A_BLOCK = 2**26
_DOUBLE_UP_TO = 2**27  # numbers in the training features: 1 GiB in float64


class Solution(NamedTuple):
    """A linear classifier of mapped features."""

    weight: Tensor  # (D, C)
    bias: Tensor  # (C,)


@torch.no_grad()
def linear_probe(
    train: Features,
    test: Features,
    num_classes: int,
    *,
    l2_grid: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    holdout: float = 0.2,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Error of the best linear classifier of frozen features.

    Features are standardised with the training set's mean and standard deviation. The classifier minimises, to
    convergence, ``mean cross entropy + l2 / 2 * |weight|^2`` with a free bias. ``l2`` is the grid's value with the
    lowest error on a held-out part of the training set, of equal ones the greatest; the classifier that is tested is
    then fitted to all of the training set. The protocol is that of Radford et al., "Learning Transferable Visual Models
    From Natural Language Supervision" (2021, appendix A.3). Numbers are float64, and float32 where the training
    features are more than 2**27.

    Args:
        train, test: features and labels.
        num_classes: C.
        l2_grid: strengths to choose from, positive.
        holdout: the part of each class that is held out, in (0, 1); at least one sample.
        seed: decides which samples are held out.
        device: where to compute; None: where the features are.

    Returns:
        ``top1_error`` and, with more than five classes, ``top5_error`` on the test set in percent; ``l2``, the chosen
        strength; ``holdout_errors``, the top-1 error in percent by strength (``"0.01"``).

    Raises:
        InputError: sets that do not fit (:func:`check_features`), a grid or ``holdout`` out of range, a class without a
            training sample, or whose samples cannot be divided.
    """
    check_features(train, test, num_classes)
    if not l2_grid or not all(0 < l2 < float("inf") for l2 in l2_grid):
        raise InputError(f"l2_grid {tuple(l2_grid)} is not all positive", "linear_probe", "Use e.g. 0.001, 0.01, 0.1")
    device = train.features.device if device is None else torch.device(device)
    held = _held_out(train.labels, num_classes, holdout, seed)
    first = int(held.sum())
    rows = torch.argsort(~held, stable=True)  # the held-out samples come first, so that parts are views
    x, map_features = _principal(train.features[rows], device)
    labels = train.labels[rows].to(device)

    solution = Solution(x.new_zeros(x.shape[1], num_classes), x.new_zeros(num_classes))
    solutions: dict[float, Solution] = {}
    errors: dict[float, float] = {}
    for l2 in sorted(l2_grid, reverse=True):  # from the most to the least convex, each from the solution before
        solution = solutions[l2] = fit(x[first:], labels[first:], l2, solution, tolerance=1e-5)
        errors[l2] = _errors(x[:first], labels[:first], solution, (1,))[0]
    l2 = min(errors, key=lambda value: errors[value])
    solution = fit(x, labels, l2, solutions[l2])
    ks = (1, 5) if num_classes > 5 else (1,)
    test_errors = _errors(map_features(test.features), test.labels.to(device), solution, ks)
    return {
        **{f"top{k}_error": error for k, error in zip(ks, test_errors)},
        "l2": l2,
        "holdout_errors": {f"{value:g}": error for value, error in errors.items()},
    }


def _held_out(labels: Tensor, num_classes: int, holdout: float, seed: int) -> Tensor:
    """Which samples are held out, bool ``(N,)``: the same part of each class, drawn by ``seed``."""
    if not 0 < holdout < 1:
        raise InputError(f"holdout {holdout} is not between 0 and 1", "linear_probe", "Use e.g. 0.2")
    labels = labels.cpu()
    counts = labels.bincount(minlength=num_classes)
    wanted = (counts * holdout).round().long().clamp(min=1)
    bad = (wanted >= counts).nonzero()
    if len(bad):
        row = int(bad[0])
        what = f"class {row} has {int(counts[row])} samples, of which {int(wanted[row])} would be held out"
        remedy = "Give more samples of it, or check num_classes and holdout"
        raise InputError(what, "training features", remedy)
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[by_class[rank < wanted[labels[by_class]]]] = True
    return held


class _Standardise(NamedTuple):
    """Features to standardised features in the directions of the training set's principal components."""

    mean: Tensor  # (D,)
    matrix: Tensor  # (D, D)

    def __call__(self, features: Tensor) -> Tensor:
        return (features.to(self.mean) - self.mean) @ self.matrix


def _principal(features: Tensor, device: torch.device) -> tuple[Tensor, _Standardise]:
    """Training features ``(N, D)`` mapped, and the mapping."""
    dtype = torch.float64 if features.numel() <= _DOUBLE_UP_TO else torch.float32
    x = features.to(device, dtype)
    var, mean = torch.var_mean(x, dim=0, correction=0)
    std = var.sqrt()
    std[std <= 1e-6 * mean.abs()] = 1  # a constant feature, up to rounding
    x = (x - mean) / std
    _, directions = torch.linalg.eigh((x.T @ x).double() / len(x))
    directions = directions.to(dtype)
    return x @ directions, _Standardise(mean, directions / std[:, None])


def fit(x: Tensor, labels: Tensor, l2: float, start: Solution, tolerance: float = 1e-6) -> Solution:
    """The minimum of :func:`objective` by L-BFGS.

    The penalty is the same in every orthonormal basis, so the principal components serve: there the Hessian is nearly
    diagonal, about ``p (1 - p) variance + l2``. Weights scaled by its inverse square root make a well-conditioned
    problem of one that takes L-BFGS up to fifty times as many steps where features are correlated and ``l2`` is small.

    Args:
        x: ``(N, D)``, in the directions of their principal components.
        labels: int64 ``(N,)``.
        l2: strength of the penalty.
        start: where to begin.
        tolerance: greatest derivative, by a scaled weight, at the end.
    """
    scale = (x.square().mean(0) + l2).rsqrt()[:, None]
    scaled, bias = start.weight / scale, start.bias.clone()
    optimizer = torch.optim.LBFGS(
        [scaled, bias],
        max_iter=1000,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, weight_grad, bias.grad = objective(x, labels, scale * scaled, bias, l2)
        scaled.grad = scale * weight_grad
        return loss

    optimizer.step(closure)
    return Solution(scale * scaled, bias)


def objective(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross entropy plus penalty, and its gradient, by blocks of rows: logits of ImageNet are never held at once.

    Args:
        x: ``(N, D)``.
        labels: int64 ``(N,)``.
        weight: ``(D, C)``.
        bias: ``(C,)``.
        l2: strength of the penalty.

    Returns:
        The scalar, its gradients ``(D, C)`` and ``(C,)``.
    """
    loss = 0.5 * l2 * weight.square().sum()
    weight_grad, bias_grad = l2 * weight, torch.zeros_like(bias)
    for rows, own in zip(_blocks(x, bias), _blocks(labels, bias)):
        log_p = torch.addmm(bias, rows, weight).log_softmax(1)
        loss = loss - log_p.gather(1, own[:, None]).sum() / len(x)
        residual = log_p.exp_()
        residual.scatter_add_(1, own[:, None], residual.new_full((len(own), 1), -1.0))
        residual /= len(x)
        weight_grad.addmm_(rows.T, residual)
        bias_grad += residual.sum(0)
    return loss, weight_grad, bias_grad


def _blocks(x: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, max(1, _LOGITS_A_BLOCK // len(bias)))


def _errors(x: Tensor, labels: Tensor, solution: Solution, ks: Sequence[int]) -> list[float]:
    """Top-k errors in percent."""
    correct = torch.zeros(len(ks), dtype=torch.int64, device=x.device)
    for rows, own in zip(_blocks(x, solution.bias), _blocks(labels, solution.bias)):
        correct += topk_correct(rows @ solution.weight + solution.bias, own, ks).sum(1)
    return [100 * (len(x) - right) / len(x) for right in correct.tolist()]
