"""From a configuration of pre-training or generic distillation to objects: networks, teacher, data, optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.optim import Optimizer

from vireo.data import (
    ArrayLoader,
    ClassificationDataset,
    Loader,
    counter_uniform,
    pretraining_loader,
)
from vireo.engine import plain
from vireo.engine.checkpoint import fit_state_dict
from vireo.engine.layer_decay import weight_decay_groups
from vireo.engine.optim import adamw, compile_blocks, scaled_rate
from vireo.errors import InputError

from .generic import GenericStudent, require_pair
from .kinds import require_own_settings
from .mae import MaskedAutoencoder
from .official import convert_checkpoint, load_encoder, load_teacher
from .sizes import mae_model, model_options
from .teacher import FrozenTeacher, MAETeacher

PretrainNetwork = MaskedAutoencoder | GenericStudent


def build_mae(config: Any) -> MaskedAutoencoder:
    """The network of a pre-training configuration.

    Raises:
        InputError: the settings of another script, an unknown name, or sizes that do not fit each other.
    """
    require_own_settings(config, "pretraining")
    model = mae_model(**plain(config.model), norm_pix=config.norm_pix)
    require_removed(config.mask_ratio, model.num_patches)
    return model


def build_teacher(config: Any) -> FrozenTeacher:
    """The frozen teacher of a distillation configuration, for images of the student's size.

    Raises:
        InputError: no weights, or see :func:`~g2sd.official.load_teacher`.
    """
    require_own_settings(config, "distillation")
    options = config.teacher
    if options.weights is None:
        remedy = "give the folder of a run of g2sd-pretrain, or a file of a whole masked autoencoder"
        raise InputError("has no value", "teacher.weights", remedy)
    size = plain(config.model).get("img_size")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # a random decoder is the same in every process, and after a restart
        teacher = load_teacher(
            options.weights, config.target_block, size, options.name, random_decoder=options.random_decoder
        )
    return FrozenTeacher(teacher, str(options.precision))


def build_student(
    config: Any, teacher: FrozenTeacher | None = None, state: Mapping[str, Tensor] | None = None
) -> GenericStudent:
    """The student of a distillation configuration.

    Args:
        config: of the run.
        teacher: whose widths it predicts.
        state: in place of the teacher, the weights of a finished student, which tell the widths; with neither they
            are those of MAE ViT-B.

    Raises:
        InputError: an unknown name or choice, sizes that do not fit each other, or a student that does not suit the
            teacher.
    """
    require_own_settings(config, "distillation")
    options = plain(config.model)
    sizes = model_options(options.pop("name"), **options)
    part = None if teacher is None else cast(MAETeacher, teacher.network)
    widths = _widths(part, state)
    own: dict[str, Any] = {name: config[name] for name in ("tokens", "decoder_weight", "encoder_weight", "beta")}
    try:
        student = GenericStudent(**sizes, **widths, **own)
    except TypeError as error:
        raise InputError(str(error).split("() ")[-1], "model", "use arguments of g2sd.GenericStudent") from None
    if part is not None:
        require_pair(part, student)
    rows, columns = student.encoder.grid_size
    require_removed(config.mask_ratio, rows * columns)
    return student


def require_removed(mask_ratio: float, num_patches: int) -> None:
    """Check that a share of patches to remove leaves some, and removes some.

    Raises:
        InputError: it does not.
    """
    if not 0 < mask_ratio < 1 or not 0 < int(num_patches * (1 - mask_ratio)) < num_patches:
        what = f"a share of {mask_ratio} of {num_patches} patches leaves none, or removes none"
        raise InputError(what, "mask_ratio", "use e.g. 0.75")


def load_start(network: PretrainNetwork, path: str) -> str:
    """Start a network from a checkpoint: a masked autoencoder with its decoder, a student's encoder.

    Args:
        network: changed in place.
        path: a run's folder, or a checkpoint of any layout.

    Returns:
        What was loaded, in words.

    Raises:
        InputError: weights that cannot be read or do not fit.
    """
    if isinstance(network, GenericStudent):
        return str(load_encoder(network.encoder, path))
    load_autoencoder(network, path)
    return f"{path}: all entries loaded"


def load_autoencoder(network: MaskedAutoencoder, path: str) -> None:
    """Load a whole masked autoencoder strictly from a checkpoint of any layout; fixed positions stay the network's.

    Raises:
        InputError: weights that cannot be read or do not fit.
    """
    from vireo.backbones.positions import require_fixed_table

    state, own = convert_checkpoint(path, "mae"), network.state_dict()
    for key in ("encoder.pos_embed", "decoder.pos_embed"):
        if (table := state.get(key)) is not None and table.shape[2] == own[key].shape[2]:
            require_fixed_table(table[:, 1:], "sincos_2d", network.encoder.grid_size, table.shape[2], f"{path}: {key}")
            state[key] = own[key]
    fit_state_dict(network, state, path)


def build_adamw(network: nn.Module, optim: Any, batch_size: int) -> Optimizer:
    """AdamW of both stages (section 4.1); the rate is given for 256 images and scales with the batch.

    Vectors and biases are not decayed; class and mask token are, as released.

    Args:
        network: to be trained.
        optim: ``lr``, ``betas``, ``weight_decay``.
        batch_size: images of an optimizer step, over all processes.

    Raises:
        InputError: a rate that is not positive.
    """
    groups = weight_decay_groups(network, optim.weight_decay, scaled_rate(optim, batch_size), skip=())
    return adamw(groups, optim, batch_size)


def compile_transformer(*networks: nn.Module) -> None:
    """``torch.compile`` the transformer blocks of networks in place."""
    for network in networks:
        compile_blocks(network, Block)


def build_loader(
    dataset: ClassificationDataset, config: Any, network: PretrainNetwork, *, train: bool = True, **here: Any
) -> ArrayLoader | Loader:
    """The loader of a set: random crops of the network's size; see :func:`vireo.data.pretraining_loader`.

    Raises:
        InputError: images that are not square, or as there.
    """
    height, width = network.encoder.patch_embed.img_size
    if height != width:
        raise InputError(f"crops of {height}x{width} are no squares", "model.img_size", "pre-train on square images")
    return pretraining_loader(dataset, config.data, config.augmentation, height, train=train, **here)


def mask_noise(targets: dict[str, Tensor], network: PretrainNetwork) -> Tensor:
    """The noise ``(B, N)`` that decides which patches of a batch stay: a function of seed, epoch and image."""
    rows, columns = network.encoder.grid_size
    return counter_uniform(targets["key"], "mask", rows * columns)


def _widths(teacher: MAETeacher | None, state: Mapping[str, Tensor] | None) -> dict[str, Any]:
    if teacher is not None:
        return {"teacher_dim": teacher.decoder_dim, "teacher_encoder_dim": teacher.encoder.embed_dim}
    heads = {"teacher_dim": "decoder_head.fc2.bias", "teacher_encoder_dim": "encoder_head.fc2.bias"}
    return {name: len(state[key]) for name, key in heads.items() if state is not None and key in state}
