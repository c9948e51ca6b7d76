"""State dicts in the authors' layout, both ways (section 7). No checkpoints were released; this is for one's own.

Derived networks differ in the names of their stages only. Super-networks are in :mod:`if_nas.official_supernet`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vireo.engine.checkpoint import fit_state_dict, state_dict_in
from vireo.errors import InputError

from .derived import DerivedNetwork

_PARTS = {"ops": "_ops", "entry.pooled": "prepocess", "entry.convolved": "prepocess2", "entry.merge": "pre"}
_OURS = re.compile(r"stages\.(\d+)\.(ops|entry\.\w+)\.")
_AUXILIARY = "auxiliary_head."


def from_official(network: nn.Module, checkpoint: Mapping[str, Any], where: str = "checkpoint") -> list[str]:
    """Load a network of the authors' code, strictly.

    Args:
        network: a :class:`~if_nas.derived.DerivedNetwork` or an :class:`~if_nas.supernet.LChainSupernet`, built alike.
        checkpoint: content of the file (``state_dict``, ``epoch``, ``best_acc_top1``, ``optimizer``), or the state dict
            alone, with or without ``module.`` before its keys.
        where: names the checkpoint in errors.

    Returns:
        The keys left out: those of an auxiliary head, if the network has none.

    Raises:
        InputError: missing, unexpected or misshaped keys, listed by kind in our layout; or another network.
    """
    if not isinstance(network, DerivedNetwork):
        from .official_supernet import supernet_from_official
        from .supernet import LChainSupernet

        if not isinstance(network, LChainSupernet):
            raise _foreign(network)
        return supernet_from_official(network, checkpoint, where)
    state = state_dict_in(checkpoint, where)
    left_out = [key for key in state if key.startswith(_AUXILIARY) and network.auxiliary_head is None]
    ours = {_official_key(key): key for key in network.state_dict()}
    fit_state_dict(network, {ours.get(key, key): state[key] for key in state if key not in left_out}, where)
    return left_out


def to_official(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a derived network or of a super-network in the authors' layout.

    Raises:
        InputError: another network.
    """
    if not isinstance(network, DerivedNetwork):
        from .official_supernet import supernet_to_official
        from .supernet import LChainSupernet

        if not isinstance(network, LChainSupernet):
            raise _foreign(network)
        return supernet_to_official(network)
    return {_official_key(key): value for key, value in network.state_dict().items()}


def _official_key(key: str) -> str:
    return _OURS.sub(lambda found: f"stage{int(found[1]) + 1}.{_PARTS[found[2]]}.", key)


def _foreign(network: nn.Module) -> InputError:
    remedy = "give a DerivedNetwork or an LChainSupernet"
    return InputError(f"{type(network).__name__} has no counterpart in the authors' code", "official layout", remedy)
