"""From a configuration of pre-training to objects: network, teacher, data, optimizer, and what a step is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vireo.data import ArrayLoader, ClassificationDataset, Loader, counter_uniform, pretraining_loader
from vireo.engine import plain
from vireo.engine.checkpoint import fit_state_dict
from vireo.engine.layer_decay import weight_decay_groups
from vireo.engine.optim import adamw, scaled_rate
from vireo.errors import InputError

from .block_mask import block_masks
from .clip import CLIPTeacher
from .distill import FeatureDistillPretrain
from .hivit import HiViT
from .kinds import require_own_settings
from .momentum import MomentumPyramidAutoencoder
from .neck import PyramidNeck
from .official import read_state, split_official
from .pixel import MaskedPyramidAutoencoder
from .sizes import itpn_backbone

OBJECTIVES = ("pixel", "clip")
PretrainNetwork = MaskedPyramidAutoencoder | FeatureDistillPretrain
_PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16}
Inputs = Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, ...]]


def build_teacher(config: Any) -> CLIPTeacher | None:
    """The teacher of a configuration; None for ``objective: pixel``.

    Raises:
        InputError: no file of weights, or one that cannot be used.
    """
    if config.objective != "clip":
        return None
    options = config.teacher
    if options.weights is None:
        remedy = "give a file of CLIP ViT-B/16's or ViT-L/14's weights with teacher.weights=FILE"
        raise InputError("has no value", "teacher.weights", remedy)
    if options.precision not in _PRECISIONS:
        remedy = f"use one of {', '.join(_PRECISIONS)}"
        raise InputError(f"unknown precision {options.precision!r}", "teacher.precision", remedy)
    return CLIPTeacher(
        options.weights, input=options.input, activation=options.activation, dtype=_PRECISIONS[options.precision]
    )


def build_pretraining(config: Any, teacher_dim: int = 0) -> PretrainNetwork:
    """The network of a pre-training configuration.

    Args:
        config: of the run.
        teacher_dim: values of the teacher's targets, for ``objective: clip``.

    Raises:
        InputError: an unknown name, or sizes that do not fit each other.
    """
    require_own_settings(config, "pretraining")
    if config.objective not in OBJECTIVES:
        raise InputError(f"unknown objective {config.objective!r}", "objective", f"use one of {', '.join(OBJECTIVES)}")
    backbone = itpn_backbone(**plain(config.model))
    if not isinstance(backbone, HiViT):
        what = f"{config.model.name} has no pyramid to be pre-trained with"
        raise InputError(what, "model.name", "use a size of HiViT or iTPN; pre-training of Fast-iTPN was not released")
    neck = PyramidNeck(backbone.dims, **plain(config.neck))
    if config.objective == "clip":
        return FeatureDistillPretrain(backbone, neck, teacher_dim, **plain(config.distill))
    options = plain(config.pixel)
    weight = options.pop("mfm_weight")
    if weight:
        return MomentumPyramidAutoencoder(backbone, neck, weight, **options)
    return MaskedPyramidAutoencoder(backbone, neck, **options)


def load_pretraining(network: PretrainNetwork, path: str) -> None:
    """Continue from the weights of another pre-training with all its heads.

    Args:
        network: of the same sizes and objective.
        path: a run's folder, or a checkpoint, ours or the authors'.

    Raises:
        InputError: weights that cannot be read or do not fit.
    """
    backbone, neck, heads = split_official(read_state(path))
    teacher = {key: value for key, value in network.state_dict().items() if key.startswith("teacher.")}
    parts = {f"backbone.{key}": value for key, value in backbone.items()}
    fit_state_dict(
        network, {**teacher, **parts, **{f"neck.{key}": value for key, value in neck.items()}, **heads}, path
    )


def build_adamw(network: nn.Module, optim: Any, batch_size: int, objective: str) -> Optimizer:
    """AdamW of both recipes (section 4); the rate is given for 256 images and scales with the batch.

    Vectors and biases are not decayed. As released, the position table is in pixel pre-training and is not in feature
    pre-training; mask token and relative tables always are.

    Args:
        network: to be trained.
        optim: ``lr``, ``betas``, ``weight_decay``.
        batch_size: images of an optimizer step, over all processes.
        objective: ``pixel`` or ``clip``.

    Raises:
        InputError: a rate that is not positive.
    """
    skip = ("backbone.absolute_pos_embed",) if objective == "clip" else ()
    rate = scaled_rate(optim, batch_size)
    return adamw(weight_decay_groups(network, optim.weight_decay, rate, skip=skip), optim, batch_size)


def build_loader(
    dataset: ClassificationDataset,
    config: Any,
    network: PretrainNetwork,
    teacher: CLIPTeacher | None,
    *,
    train: bool = True,
    **here: Any,
) -> ArrayLoader | Loader:
    """The loader of a set: crops of the network's size; with a teacher also its view of them, of as many patches.

    Raises:
        InputError: images that are not square, or see :func:`~itpn.pretraining_data.two_view_loader`.
    """
    from .pretraining_data import two_view_loader

    rows, columns = network.backbone.grid_size
    if rows != columns:
        raise InputError(f"{rows}x{columns} units are no square", "model.img_size", "pre-train on square images")
    size = rows * network.backbone.patch_size
    if teacher is None:
        return pretraining_loader(dataset, config.data, config.augmentation, size, train=train, **here)
    sizes = (size, rows * teacher.patch_size)
    return two_view_loader(dataset, config.data, config.augmentation, sizes, train=train, **here)


def build_inputs(config: Any, network: PretrainNetwork, teacher: CLIPTeacher | None) -> Inputs:
    """What the network is given for a batch of a loader: images and noise, or images, masks and targets."""
    units = network.backbone.grid_size
    if teacher is None:
        return lambda images, targets: (images, counter_uniform(targets["key"], "mask", units[0] * units[1]))
    blocks = plain(config.mask)
    block_masks(torch.zeros(1, dtype=torch.int64), units, **blocks)  # are they possible?

    def inputs(images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return images, block_masks(targets["key"], units, **blocks), teacher(targets["teacher"])

    return inputs
