"""All candidate operators of one stage, stacked so that neighbouring edges are evaluated as one (section 11).

A bank holds one operator kind for every edge of a stage. Given the features that some neighbouring edges read, side by
side on channels, it returns their weighted sum.

Stacking has a consequence for training: an edge that is idle gets a gradient of zeros, not none. Weight decay and
momentum therefore act on it, exactly as in the authors' dense evaluation; only its batch statistics stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .operators import Separable, Zero, build_operator
from .plan import Span

_PER_CHANNEL = (nn.Identity, Zero, nn.AvgPool2d, nn.MaxPool2d)


def build_bank(name: str, edges: int, channels: int) -> nn.Module:
    """The operator ``name`` on every of ``edges`` edges with ``channels`` channels.

    Raises:
        InputError: unknown operator.
    """
    operator = build_operator(name, channels)
    if type(operator) is Separable:
        return StackedSeparable(edges, channels, operator.repeats)
    if isinstance(operator, _PER_CHANNEL):
        return SharedOperator(operator)
    return EdgeOperators([operator, *(build_operator(name, channels) for _ in range(edges - 1))])


class StackedSeparable(nn.Module):
    """The separable convolutions of all edges as one grouped convolution and one batch normalisation each.

    Both are exact: groups and channels do not mix. Weights of a sum over edges are folded into the last normalisation.

    Args:
        edges: E.
        channels: C, in and out.
        repeats: of ReLU, depthwise 3x3, pointwise 1x1, batch normalisation.
    """

    def __init__(self, edges: int, channels: int, repeats: int) -> None:
        super().__init__()
        width = edges * channels
        self.channels = channels
        self.depthwise = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False) for _ in range(repeats)
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(width, width, 1, groups=edges, bias=False) for _ in range(repeats))
        self.norm = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(repeats))

    def cut(self, spans: Sequence[Span]) -> dict[Span, Any]:
        """The parameters of each of ``spans``, for :meth:`forward`."""
        cuts = [take(parameter, spans, self.channels) for parameter in self.parameters()]
        return dict(zip(spans, zip(*cuts)))

    def forward(self, features: Tensor, span: Span, parameters: Sequence[Tensor], weights: Tensor | None) -> Tensor:
        """The sum over the edges of ``span``.

        Args:
            features: what they read, (B, n * C, H, W).
            span: the edges, n of them.
            parameters: of the span, from :meth:`cut`.
            weights: (n,) factors; None for one edge without a factor.

        Returns:
            (B, C, H, W)
        """
        repeats = len(self.norm)
        depthwise, pointwise = parameters[:repeats], parameters[repeats : 2 * repeats]
        affine = parameters[2 * repeats :]
        for index, norm in enumerate(self.norm):
            gain, bias = affine[2 * index : 2 * index + 2]
            if weights is not None and index == repeats - 1:
                factors = weights.repeat_interleave(self.channels)
                gain, bias = gain * factors, bias * factors
            features = F.conv2d(F.relu(features), depthwise[index], padding=1, groups=features.shape[1])
            features = F.conv2d(features, pointwise[index], groups=span[1])
            features = _normalise(norm, features, gain, bias, span[0] * self.channels)
        return features if weights is None else features.unflatten(1, (-1, self.channels)).sum(1)


class SharedOperator(nn.Module):
    """An operator without parameters that treats every channel alike: one module for all edges."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.operator = operator

    def cut(self, spans: Sequence[Span]) -> dict[Span, None]:
        """Nothing."""
        return dict.fromkeys(spans)

    def forward(self, features: Tensor, span: Span, _: None, weights: Tensor | None) -> Tensor:
        """As :meth:`StackedSeparable.forward`."""
        features = self.operator(features)
        return features if weights is None else weighted_sum(features, weights)


class EdgeOperators(nn.Module):
    """Any operator: a module per edge, evaluated one after another. Those of idle edges get no gradient."""

    def __init__(self, operators: Sequence[nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(operators)

    def cut(self, spans: Sequence[Span]) -> dict[Span, nn.ModuleList]:
        """The modules of each of ``spans``."""
        return {(first, count): self.edges[first : first + count] for first, count in spans}

    def forward(self, features: Tensor, span: Span, operators: nn.ModuleList, weights: Tensor | None) -> Tensor:
        """As :meth:`StackedSeparable.forward`."""
        found = [operator(part) for operator, part in zip(operators, features.chunk(span[1], 1))]
        return found[0] if weights is None else weighted_sum(torch.cat(found, 1), weights)


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """(B, n * C, H, W) and (n,) to (B, C, H, W)"""
    parts = features.unflatten(1, (len(weights), -1))
    return (parts * weights.to(features.dtype)[:, None, None, None]).sum(1)


def take(parameter: Tensor, spans: Sequence[Span], size: int) -> Sequence[Tensor]:
    """The rows of ``spans``, ``size`` rows an edge.

    Spans that do not overlap are cut by one split, whose backward is one concatenation.
    """
    sizes, done = [], 0
    for first, count in spans:
        sizes += [(first - done) * size, count * size]
        done = first + count
    if min(sizes) < 0:
        return [parameter.narrow(0, first * size, count * size) for first, count in spans]
    return parameter.split([*sizes, len(parameter) - done * size])[1::2]


def _normalise(norm: nn.Module, features: Tensor, gain: Tensor, bias: Tensor, first: int) -> Tensor:
    """``norm`` restricted to the channels from ``first`` on; their running statistics are updated in place."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = (buffer.narrow(0, first, len(gain)) for buffer in (norm.running_mean, norm.running_var))
    if type(norm) is nn.BatchNorm2d:
        return F.batch_norm(features, mean, variance, gain, bias, norm.training, norm.momentum or 0.0, norm.eps)
    # one of another kind, over several processes say; batches are not counted, as above
    parts = {"weight": gain, "bias": bias, "running_mean": mean, "running_var": variance}
    uncounted = torch.zeros((), dtype=torch.long, device=mean.device)
    found: Tensor = functional_call(norm, {**parts, "num_batches_tracked": uncounted}, (features,))
    return found
