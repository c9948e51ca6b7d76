"""Checkpoints in the authors' layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vireo.engine.checkpoint import fit_state_dict, state_dict_in


def from_official(network: nn.Module, checkpoint: Mapping[str, Any], where: str = "checkpoint") -> None:
    """Load the content of a checkpoint file strictly; the authors' keys are renamed here.

    Raises:
        InputError: missing, unexpected or misshaped keys, all listed by kind.
    """
    fit_state_dict(network, state_dict_in(checkpoint, where), where)
