"""State dicts of super-networks in the authors' layout, both ways (section 7).

The authors have a module per edge and operator, we one stack per operator. Architecture weights are not stored there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vireo.engine.checkpoint import fit_state_dict, state_dict_in
from vireo.errors import InputError

from .plan import bank_size
from .space import LChainSpace
from .supernet import LChainSupernet

_PREFIXES = (  # ours, theirs
    (r"stem\.([01])\.", r"stem1.\1."),
    (r"stem\.([23])\.body\.", r"stem\1."),
    (r"stem\.([23])\.shortcut\.", r"skip\1."),
    (r"head\.", ""),
    (r"entry\.body\.", "prepocess."),
    (r"entry\.shortcut\.", "skip."),
)
_LAYERS = {"depthwise": 1, "pointwise": 2, "norm": 3}  # in a repetition; every fourth begins one


def supernet_from_official(
    network: LChainSupernet, checkpoint: Mapping[str, Any], where: str = "checkpoint"
) -> list[str]:
    """Load a super-network of the authors, strictly. Its architecture weights stay as they are.

    Args:
        network: of the same space, width and classes.
        checkpoint: content of the file, or the state dict alone, with or without ``module.`` before its keys.
        where: names the checkpoint in errors.

    Returns:
        The keys left out: those of the auxiliary head, whose output the authors drop, and with their indexing of
        operators those of operators that no node uses.

    Raises:
        InputError: missing, unexpected or misshaped keys, all listed.
    """
    state = state_dict_in(checkpoint, where)
    places = _places(network, network.legacy)
    theirs = {key for keys in places.values() for key in keys}
    unused = {key for keys in _places(network, False).values() for key in keys} - theirs
    left_out = [key for key in state if key in unused or key.startswith("auxiliary_head.")]
    strange = [key for key in state if key not in theirs and key not in left_out]
    missing = [key for key in theirs if key not in state]
    if strange or missing:
        listed = f"missing {sorted(missing)[:5]}, unexpected {sorted(strange)[:5]}"
        raise InputError(f"does not fit the super-network: {listed}", where, "use the same nodes, length and operators")
    own = network.state_dict()
    converted = {key: value for key, value in own.items() if key.startswith("arch.")}
    for key, keys in places.items():
        parts = [state[name] for name in keys]
        converted[key] = torch.stack(parts).amax(0) if own[key].dim() == 0 else torch.cat(parts)
    fit_state_dict(network, converted, where)
    return left_out


def supernet_to_official(network: LChainSupernet) -> dict[str, Tensor]:
    """The state dict in the authors' layout, without the architecture weights and without an auxiliary head."""
    own = network.state_dict()
    converted: dict[str, Tensor] = {}
    for key, keys in _places(network, network.legacy).items():
        value = own[key]
        parts = [value.clone() for _ in keys] if value.dim() == 0 else value.chunk(len(keys))
        converted.update(zip(keys, parts))
    return converted


def _places(network: LChainSupernet, legacy: bool) -> dict[str, list[str]]:
    """Their keys that make up each of ours, in the order of edges."""
    keys = [key for key in network.state_dict() if not key.startswith("arch.")]
    return {key: _official_keys(network.space, key, legacy) for key in keys}


def _official_keys(space: LChainSpace, key: str, legacy: bool) -> list[str]:
    stage = re.match(r"stages\.(\d+)\.", key)
    before, rest = (f"stage{int(stage[1]) + 1}.", key[stage.end() :]) if stage else ("", key)
    if stage and (bank := re.match(r"banks\.([^.]+)\.", rest)):
        number, rest, ops = space.ops.index(bank[1]), rest[bank.end() :], len(space.ops)
        if stacked := re.fullmatch(r"(depthwise|pointwise|norm)\.(\d+)\.(\w+)", rest):
            layer = 4 * int(stacked[2]) + _LAYERS[stacked[1]]
            edges = range(bank_size(space, int(stage[1]), legacy))
            return [f"{before}_ops.{ops * edge + number}.ops.{layer}.{stacked[3]}" for edge in edges]
        _, edge, rest = rest.split(".", 2)
        return [f"{before}_ops.{ops * int(edge) + number}.{rest}"]
    for ours, theirs in _PREFIXES:
        rest = re.sub(f"^{ours}", theirs, rest)
    return [before + rest]
