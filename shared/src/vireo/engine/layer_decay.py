"""Parameter groups of an optimizer: weight decay by kind of parameter, learning rate by depth."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from timm.models import group_parameters
from torch import nn

from vireo.errors import InputError

Groups = list[dict[str, Any]]
_WITH_THE_GROUP_BEFORE = 99999  # how timm's matchers mark the final norm, to count it to the last block


def layer_decay_groups(model: nn.Module, weight_decay: float = 0.05, layer_decay: float = 0.75, *, lr: float) -> Groups:
    """Groups for fine-tuning with a learning rate that falls from the head to the input.

    The scale is ``layer_decay ** (depth + 1 - l)``, where l is 0 for the patch embedding, class token and positions,
    i + 1 for block i, and depth + 1 for everything behind the blocks: final norm, ``fc_norm`` and head, as in Bao et
    al., "BEiT" (2022) and He et al., "Masked Autoencoders" (2022). timm's own groups count the final norm to the last
    block. Vectors, biases and what ``model.no_weight_decay()`` names are not decayed. Frozen parameters are left out.

    Args:
        model: a network with timm's ``group_matcher``: timm's models and what derives from them.
        weight_decay: of the parameters that are decayed.
        layer_decay: in (0, 1].
        lr: the head's.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr``, the scaled rate, which a schedule multiplies further. The
        first has the full rate, the one that :class:`vireo.engine.Run` logs.

    Raises:
        InputError: the network does not say what its layers are, or ``layer_decay`` is out of range.
    """
    if not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay {layer_decay} is not in (0, 1]", "layer_decay_groups", "Use e.g. 0.75")
    network: Any = model  # what timm adds is no part of nn.Module
    if not hasattr(network, "group_matcher"):
        remedy = "Use a timm model, or give it a group_matcher"
        raise InputError(f"{type(model).__name__} has no group_matcher", "layer_decay_groups", remedy)
    layers = group_parameters(model, _without_followers(network.group_matcher(coarse=False)), reverse=True)
    last = max(layers.values())
    skip = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    scales = {name: layer_decay ** (last - layer) for name, layer in layers.items()}
    return _groups(model, weight_decay, lr, skip, scales)


def weight_decay_groups(
    model: nn.Module, weight_decay: float, lr: float, skip: Collection[str] = ("mask_token",)
) -> Groups:
    """Groups for pre-training: no weight decay of vectors, biases and the parameters whose whole name is in ``skip``.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr``. Frozen parameters are left out.
    """
    return _groups(model, weight_decay, lr, skip, {})


def _without_followers(matcher: Any) -> Any:
    """A timm matcher less the rules that count parameters to the group before: these join the head, the last group."""
    if not isinstance(matcher, dict):
        return matcher

    def kept(rules: Any) -> Any:
        if not isinstance(rules, (list, tuple)):
            return rules
        return [(pattern, suffix) for pattern, suffix in rules if _WITH_THE_GROUP_BEFORE not in (suffix or ())]

    return {name: kept(rules) for name, rules in matcher.items()}


def _groups(model: nn.Module, weight_decay: float, lr: float, skip: Iterable[str], scales: dict[str, float]) -> Groups:
    skip = set(skip)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bare = parameter.ndim <= 1 or name.endswith(".bias") or name in skip
            key = scales.get(name, 1.0), 0.0 if bare else weight_decay
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": groups[scale, decay], "weight_decay": decay, "lr": lr * scale}
        for scale, decay in sorted(groups, reverse=True)
    ]
