"""The gate: a small network that decides from a block's input which channels of the block are computed.

Training samples each gate from a binary concrete distribution and passes the gradient straight through (Maddison et
al. 2017; Bejnordi et al. 2020, section 3); evaluation thresholds the probability at one half and draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vireo.data.random import counter_uniform

TEMPERATURE = 2 / 3
HIDDEN = 16
_SMALLEST = 2.0**-25  # half a step of the uniform numbers: keeps their logit finite at 0


def binary_concrete_ste(logits: Tensor, temperature: float = TEMPERATURE, noise: Tensor | None = None) -> Tensor:
    """Hard samples of a binary concrete distribution whose gradient is that of the soft ones.

    With ``u`` uniform and ``y = (logits + logit(u)) / temperature`` the value is 1 where ``y > 0``, else 0, and its
    derivative is taken to be that of ``sigmoid(y)``.

    Args:
        logits: any shape.
        temperature: positive; lower is closer to a step.
        noise: ``u`` in [0, 1), of the shape of ``logits``; drawn from the global generator if not given.

    Returns:
        0 or 1 in the dtype of ``logits``. A logit that is not a number gives neither a number nor a gradient.
    """
    u = torch.rand_like(logits) if noise is None else noise.to(logits.dtype)
    soft = torch.sigmoid((logits + torch.logit(u, eps=_SMALLEST)) / temperature)
    hard = (soft > 0.5).to(logits.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly 0 in value


class ChannelGate(nn.Module):
    """Global average pool, 1x1 convolution, batch norm, ReLU, 1x1 convolution: one logit per channel to be gated.

    Args:
        in_channels: channels of the block's input.
        out_channels: channels to gate.
        hidden: width of the perceptron.
        temperature: of the binary concrete samples.

    Attributes:
        logits, probs: ``(B, out_channels)`` of the last forward pass, with gradient; None before the first.
        uniform: explicit noise ``(B, out_channels)`` for training, see :func:`gate_noise`; None: drawn afresh.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int = HIDDEN, temperature: float = TEMPERATURE
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.temperature = in_channels, out_channels, temperature
        fc1, fc2 = nn.Conv2d(in_channels, hidden, 1, bias=False), nn.Conv2d(hidden, out_channels, 1)
        for layer in (fc1, fc2):
            nn.init.kaiming_normal_(layer.weight)
        self.mlp = nn.ModuleDict({"fc1": fc1, "bn": nn.BatchNorm2d(hidden), "fc2": fc2})
        self.logits: Tensor | None = None
        self.uniform: Tensor | None = None

    @property
    def probs(self) -> Tensor | None:
        """``sigmoid(logits)``, the probability of each gate to be open, without noise."""
        return None if self.logits is None else torch.sigmoid(self.logits)

    def gate_logits(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels)``."""
        hidden = self.mlp["fc1"](x.mean((2, 3), keepdim=True))
        return self.mlp["fc2"](torch.relu_(self.mlp["bn"](hidden))).flatten(1)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Decide which channels stay on.

        Args:
            x: the block's input ``(B, in_channels, H, W)``.
            noise: uniform numbers of ``B * out_channels`` entries for training; ``uniform`` otherwise. Not used in
                evaluation.

        Returns:
            ``(B, out_channels, 1, 1)`` of 0 and 1.

        Raises:
            ValueError: from batch norm, for a training batch of one image.
        """
        self.logits = logits = self.gate_logits(x)
        if not self.training:
            return (logits > 0).to(logits.dtype)[:, :, None, None]
        noise = self.uniform if noise is None else noise
        shaped = None if noise is None else noise.reshape(logits.shape)
        return binary_concrete_ste(logits, self.temperature, shaped)[:, :, None, None]

    def __getstate__(self) -> dict[str, Any]:
        """Without what the last forward pass left: a copy of the module starts afresh."""
        return {**self.__dict__, "logits": None, "uniform": None}


def gates_of(network: nn.Module) -> list[ChannelGate]:
    """The gates of a network in the order of its blocks."""
    return [module for module in network.modules() if isinstance(module, ChannelGate)]


@contextmanager
def gate_noise(network: nn.Module, keys: Tensor) -> Iterator[None]:
    """Draw the gates' noise of the forward passes inside from the samples' keys.

    The noise of a sample is then a function of (seed, epoch, index): the same on any number of processes, on every
    device, and after a resume.

    Args:
        network: with gates.
        keys: int64 ``(B,)``, see :func:`vireo.data.counter_key`.
    """
    gates = gates_of(network)
    widths = [gate.out_channels for gate in gates]
    with uniform_noise(network, counter_uniform(keys, "gates", sum(widths))):
        yield


@contextmanager
def uniform_noise(network: nn.Module, uniform: Tensor) -> Iterator[None]:
    """Give the gates explicit noise: ``uniform`` ``(B, gates of all blocks)``, concatenated in network order."""
    gates = gates_of(network)
    for gate, part in zip(gates, uniform.split([gate.out_channels for gate in gates], 1)):
        gate.uniform = part
    try:
        yield
    finally:
        for gate in gates:
            gate.uniform = None
