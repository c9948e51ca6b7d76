"""Checkpoints in the authors' layout, both ways (section 7).

Network keys are the same in both. Only the memory banks of FGC checkpoints lie elsewhere: inside the gates there, in
the training objective here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vireo.engine.checkpoint import fit_state_dict, state_dict_in

from .blocks import GatedBlock
from .coupling import FeatureGateCoupling

_BANK = re.compile(r"\.gate\.(gate_mb\.(params|memory)|feat_mb\.memory)$")
_OWN_TRAINING = "objective."


def is_bank(key: str) -> bool:
    """Whether a key of either layout belongs to training only: a memory bank or the settings of one."""
    return bool(_BANK.search(key)) or key.startswith(_OWN_TRAINING)


def from_official(network: nn.Module, checkpoint: Mapping[str, Any], where: str = "checkpoint") -> list[str]:
    """Load a checkpoint in the authors' layout, or one of ours, into a gated network, strictly.

    Args:
        network: built like the checkpoint's. If an objective with couplings of the same blocks is attached, the banks
            are loaded too.
        checkpoint: the file's content (``epoch``, ``arch``, ``best_acc1``, ``state_dict``, ``optimizer``), or the
            state dict alone, with or without ``module.`` before its keys.
        where: names the checkpoint in errors.

    Returns:
        The keys that were left out: banks for which the network has no place.

    Raises:
        InputError: missing, unexpected or misshaped keys, all listed by kind.
    """
    state = state_dict_in(checkpoint, where)
    places = _bank_places(network)
    training = {key: value for key, value in network.state_dict().items() if key.startswith(_OWN_TRAINING)}
    banks = {places.get(key, key): value for key, value in state.items() if key in places or key in training}
    left_out = [key for key in state if is_bank(key) and key not in places and key not in training]
    weights = {key: value for key, value in state.items() if not is_bank(key)}
    fit_state_dict(network, {**training, **weights, **banks}, where)
    return left_out


def to_official(network: nn.Module) -> dict[str, Tensor]:
    """The network's state dict in the authors' layout, with the banks of coupled blocks where they are attached."""
    places = {ours: official for official, ours in _bank_places(network).items()}
    state = network.state_dict()
    converted = {places.get(key, key): value for key, value in state.items() if not key.startswith(_OWN_TRAINING)}
    for ours, official in places.items():
        converted[official] = state[ours]
    for prefix, coupling in _couplings(network).items():
        converted[f"{prefix}.gate.gate_mb.params"] = torch.tensor([coupling.temperature, coupling.gate_bank.momentum])
    return converted


def _couplings(network: nn.Module) -> dict[str, FeatureGateCoupling]:
    """Couplings by the name of their block, where an objective is attached."""
    objective = getattr(network, "objective", None)
    if objective is None:
        return {}
    names = [name for name, module in network.named_modules() if isinstance(module, GatedBlock)]
    return {names[int(number)]: coupling for number, coupling in objective.couplings.items()}


def _bank_places(network: nn.Module) -> dict[str, str]:
    """Ours by the authors' key, for every bank of the network."""
    objective = getattr(network, "objective", None)
    numbers = list(objective.couplings) if objective is not None else []
    return {
        f"{prefix}.gate.{theirs}.memory": f"{_OWN_TRAINING}couplings.{number}.{ours}.memory"
        for number, prefix in zip(numbers, _couplings(network))
        for theirs, ours in (("gate_mb", "gate_bank"), ("feat_mb", "feature_bank"))
    }
