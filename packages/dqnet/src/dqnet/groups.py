"""Parameter groups of the authors' optimizer: a rate for each part, falling with depth in the transformer.

Section 4 of the notes.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from vireo.errors import InputError

from .model import DQnet

Groups = list[dict[str, Any]]
_INPUT = ("cls_token", "pos_embed")  # of the transformer: parameters of more than one dimension that are not decayed


def param_groups(
    model: DQnet,
    lr: float = 5e-4,
    vit_lr: float = 1e-4,
    layer_decay: float = 0.75,
    weight_decay: float = 0.1,
    vit_weight_decay: float = 0.0,
    *,
    freeze_vit_norm: bool = True,
    decay_vectors: bool = True,
) -> Groups:
    """Groups with ``params``, ``lr`` and ``weight_decay``; the defaults are what the authors' code does.

    The ResNet, its queries and the decoder have the rate ``lr``. A layer of the transformer has ``vit_lr`` times
    ``layer_decay ** (depth + 1 - l)``, where l is 0 for the patch embedding, class token and positions, i + 1 for block
    i, and depth + 1 for the final norm.

    Args:
        model: any arm.
        lr: of all but the transformer.
        vit_lr: of the transformer's last layer.
        layer_decay: in (0, 1]; 1: one rate for the whole transformer.
        weight_decay: of all but the transformer.
        vit_weight_decay: of the transformer's matrices. The authors pass 0.05, but a slip in their code leaves 0.
        freeze_vit_norm: leave the transformer's final norm out, as their grouping does.
        decay_vectors: ``weight_decay`` of norms and biases too, as theirs.

    Returns:
        The groups, those at the full rate ``lr`` first. Parameters that need no gradient are left out.

    Raises:
        InputError: a rate that is not positive, a negative decay, or ``layer_decay`` out of range.
    """
    _require_range(lr=lr, vit_lr=vit_lr)
    _require_range(weight_decay=weight_decay, vit_weight_decay=vit_weight_decay)
    if not 0 < layer_decay <= 1:
        raise InputError(f"{layer_decay} is not in (0, 1]", "optim.layer_decay", "use the paper's 0.75, or 1 for none")
    depth = 0 if model.vit is None else len(model.vit.blocks)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        if not parameter.requires_grad or (freeze_vit_norm and name.startswith("vit.norm.")):
            continue
        if part == "vit":
            rate = vit_lr * layer_decay ** (depth + 1 - _layer(rest, depth))
            decay = 0.0 if parameter.ndim <= 1 or rest in _INPUT else vit_weight_decay
        else:
            rate, decay = lr, weight_decay if decay_vectors or parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    found = [{"params": groups[rate, decay], "lr": rate, "weight_decay": decay} for rate, decay in groups]
    return sorted(found, key=lambda group: group["lr"] != lr)  # stable: a run logs the rate of the first


def _layer(name: str, depth: int) -> int:
    """Number of the transformer's layer that a parameter belongs to, 0 for the input."""
    block = re.match(r"blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1 if name.startswith("norm.") else 0


def _require_range(**values: float) -> None:
    for name, value in values.items():
        if name.endswith("lr") and not value > 0:
            raise InputError(f"a rate of {value} trains nothing", f"optim.{name}", "use a positive one, e.g. 1e-4")
        if value < 0:
            raise InputError(f"{value} is negative", f"optim.{name}", "use 0 for none")
