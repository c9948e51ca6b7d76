"""From configuration to objects: the network of a run."""

from __future__ import annotations

from typing import Any

from vireo.engine import plain

from .model import DQnet


def build_network(config: Any) -> DQnet:
    """The network of a configuration's ``model``, freshly drawn.

    Raises:
        InputError: an unknown arm or size, or parts that do not fit each other.
    """
    return DQnet(**plain(config.model))
