"""Parameter groups of fine-tuning: learning rates that fall towards the input, by the authors' rules (section 4).

Layer 0 is the patch embedding and the positions; what comes behind the backbone (norm and head, pyramid, detector) has
the full rate. ``itpn``, ``beit`` and the two ``official_`` schemes are those of the authors' runs; the latter two hold
their faults: blocks are counted with the merges but scaled as if without, so the last block learns faster than the
head; and positions have the full rate (``official_det``) or are decayed like the bias tables (``official_seg``).
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from torch import nn

from vireo.engine.layer_decay import Groups
from vireo.errors import InputError

from .fast import FastITPN
from .hivit import HiViT

Scheme = Literal["itpn", "beit", "official_det", "official_seg", "det", "seg"]
SCHEMES: tuple[str, ...] = ("itpn", "beit", "official_det", "official_seg", "det", "seg")
_STEM = ("patch_embed.", "absolute_pos_embed", "pos_embed", "cls_token", "rel_pos_bias.")
_BLOCK = re.compile(r"blocks\.(\d+)\.")


class ParameterRule(NamedTuple):
    """How one parameter is trained: the factor of its learning rate, and whether its weight is decayed."""

    scale: float
    decayed: bool


def parameter_rules(model: nn.Module, decay: float, scheme: Scheme = "itpn") -> dict[str, ParameterRule]:
    """The rule of each parameter, by its name in ``model``; see :func:`layer_decay_groups`.

    Raises:
        InputError: no backbone in the model, an unknown scheme, or a decay that is not in (0, 1].
    """
    if scheme not in SCHEMES:
        raise InputError(f"unknown scheme {scheme!r}", "scheme", f"use one of {', '.join(SCHEMES)}")
    if not 0 < decay <= 1:
        raise InputError(f"a layer decay of {decay} is not in (0, 1]", "layer_decay", "use e.g. 0.6")
    prefix, backbone = _backbone(model)
    exempt = {prefix + name for name in backbone.no_weight_decay()} if scheme != "official_seg" else set()
    count = sum(backbone.depths)
    factor = decay
    if scheme in ("itpn", "seg", "official_seg"):
        factor = decay ** (13 / (count + (1 if scheme == "itpn" else 2)))
    last = len(backbone.blocks) if scheme == "beit" else count

    rules = {}
    for name, parameter in model.named_parameters():
        layer = _layer(name.removeprefix(prefix), backbone, scheme) if name.startswith(prefix) else None
        if scheme == "official_det" and name.endswith("absolute_pos_embed"):
            layer = None
        scale = 1.0 if layer is None else factor ** (last + 1 - layer)
        bare = parameter.ndim <= 1 or name.endswith(".bias") or name in exempt
        rules[name] = ParameterRule(scale, not bare)
    return rules


def layer_decay_groups(
    model: nn.Module, lr: float, decay: float, weight_decay: float = 0.05, scheme: Scheme = "itpn"
) -> Groups:
    """Groups for fine-tuning a model around a HiViT or Fast-iTPN.

    Args:
        model: the backbone itself with its head, or anything that holds one: a detector, a segmenter.
        lr: of what comes behind the backbone.
        decay: of the rate from layer to layer, as the authors state it: ``itpn``, ``seg`` and ``official_seg`` spread
            the decay of a network of 12 blocks over their own (section 4).
        weight_decay: of matrices; none of vectors, biases, positions and bias tables.
        scheme: ``itpn`` for classification, where a merge belongs to the block before; ``beit`` for Fast-iTPN, where
            merges are layers; ``det`` and ``seg`` downstream, with the layers of ``itpn``; ``official_det`` and
            ``official_seg`` as released.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr``, those of the full rate first. Frozen parameters are left
        out.

    Raises:
        InputError: no backbone in the model, an unknown scheme, or a decay that is not in (0, 1].
    """
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    rules = parameter_rules(model, decay, scheme)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule = rules[name]
            groups.setdefault((rule.scale == 1.0, *rule), []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": weight_decay if key[2] else 0.0, "lr": lr * key[1]}
        for key in sorted(groups, reverse=True)
    ]


def _backbone(model: nn.Module) -> tuple[str, HiViT | FastITPN]:
    """The backbone in ``model``, and what its parameters' names begin with."""
    for name, module in model.named_modules():
        if isinstance(module, (HiViT, FastITPN)):
            return f"{name}." if name else "", module
    remedy = "give a HiViT, a FastITPN, or a model that holds one"
    raise InputError(f"{type(model).__name__} holds no backbone of iTPN", "layer_decay_groups", remedy)


def _layer(name: str, backbone: Any, scheme: Scheme) -> int | None:
    """The layer of a parameter of the backbone, counted from the stem's 0; None if it is none of the layers'."""
    if name.startswith(_STEM):
        return 0
    found = _BLOCK.match(name)
    if found is None:
        return None
    index = int(found[1])
    if scheme in ("beit", "official_det", "official_seg"):
        return index + 1
    first, second, _ = backbone.depths
    merges = (index >= first) + (index >= first + 1 + second)  # up to and with this block
    return index + 1 - merges
