"""From configuration to objects: network and optimizer of a run."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD

from vireo.engine import plain

from .model import SmallNet


def build_network(model: Any, num_classes: int) -> SmallNet:
    """The network of a ``model`` configuration."""
    return SmallNet(num_classes, **plain(model))


def build_optimizer(network: nn.Module, optim: Any) -> SGD:
    """SGD with Nesterov momentum."""
    return SGD(network.parameters(), nesterov=True, **plain(optim))
