"""From configuration to objects: backbones, classifiers and their optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from vireo.engine import adamw, plain, scaled_rate
from vireo.engine.finished import require_same_sizes
from vireo.errors import InputError

from .layer_decay import layer_decay_groups
from .official import load_backbone
from .sizes import SIZES, itpn_backbone

if TYPE_CHECKING:
    from .fast import FastITPN
    from .hivit import HiViT
    from .official import LoadReport

_SIZES = ("patch_size", "embed_dim", "depths", "num_heads")  # tables of another image size are resized


def build_backbone(model: Any, num_classes: int = 0, head_std: float | None = None) -> HiViT | FastITPN:
    """The backbone of a ``model`` configuration, with a classifier if there are classes.

    Args:
        model: ``name`` of a size and arguments that come before the size's own.
        num_classes: 0 for none.
        head_std: deviation of the classifier's weights; None: the network's own.

    Raises:
        InputError: an unknown name or argument, sizes that do not fit each other, or a negative deviation.
    """
    backbone = itpn_backbone(**{**plain(model), "num_classes": num_classes})
    if num_classes and head_std is not None:
        if head_std < 0:
            raise InputError(f"a deviation of {head_std}", "head_std", "use e.g. 2e-5")
        head: Any = backbone.get_classifier()
        nn.init.trunc_normal_(head.weight, std=head_std, a=-100 * head_std, b=100 * head_std)
        nn.init.zeros_(head.bias)
    return backbone


def load_start(backbone: HiViT | FastITPN, path: str, model: Any) -> LoadReport:
    """Start a backbone from a pre-training: a run's folder, or a checkpoint, ours or the authors'.

    Args:
        backbone: changed in place; its classifier stays.
        path: the folder or file.
        model: the configuration of the backbone, compared with that of the run.

    Raises:
        InputError: no such checkpoint, or one of another network.
    """
    from .load import model_of

    theirs = model_of(path)
    if theirs is not None:
        require_same_sizes(sizes_of(model), sizes_of(theirs), ("name", *_SIZES), path)
    return load_backbone(backbone, path)


def sizes_of(model: Any) -> dict[str, Any]:
    """What a ``model`` configuration says of widths and depths, its own words before its size's.

    Raises:
        InputError: an unknown size.
    """
    given = plain(model)
    name = str(given.get("name"))
    if name not in SIZES:
        raise InputError(f"unknown backbone {name!r}", "model.name", f"use one of {', '.join(SIZES)}")
    merged = {"patch_size": 16, **SIZES[name], **given}
    family = "fast_itpn" if name.startswith("fast_") else "itpn"
    return {"name": family, **{key: _plain_value(merged[key]) for key in _SIZES}}


def _plain_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def build_adamw(network: nn.Module, optim: Any, batch_size: int) -> Optimizer:
    """AdamW of fine-tuning, with rates that fall from the head to the input (section 4).

    Args:
        network: a classifier.
        optim: ``lr`` for 256 images, ``betas``, ``weight_decay``, ``layer_decay`` and ``layer_scheme``.
        batch_size: images of an optimizer step, over all processes.

    Raises:
        InputError: a rate that is not positive, a decay out of range or an unknown scheme.
    """
    rate = scaled_rate(optim, batch_size)
    groups = layer_decay_groups(network, rate, optim.layer_decay, optim.weight_decay, scheme=optim.layer_scheme)
    return adamw(groups, optim, batch_size)


def block_kinds() -> tuple[type[nn.Module], ...]:
    """What :func:`vireo.engine.compile_blocks` compiles of our networks."""
    from .attention import MlpBlock
    from .fast_blocks import CellBlock, TokenBlock

    return MlpBlock, CellBlock, TokenBlock
