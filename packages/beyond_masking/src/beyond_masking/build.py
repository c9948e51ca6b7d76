"""From configuration to objects: models, optimizers, weights to start from."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from vireo.backbones import MaskedViT
from vireo.engine import layer_decay_groups, plain, weight_decay_groups
from vireo.engine.finished import initial_weights
from vireo.engine.schedule import Schedule, build_schedule
from vireo.errors import InputError

from .model import TokenPretrainModel
from .official import load_pretrained_encoder, load_pretraining

HEAD_SCALE = 0.001  # of a classifier's last layer, whose probabilities start almost equal


def build_pretraining(config: Any) -> TokenPretrainModel:
    """The model of a pre-training configuration.

    Raises:
        InputError: an unknown name, or sizes that do not fit each other.
    """
    model = plain(config.model)
    require_own(config, "drop_path_rate" in model, "beyond-masking-finetune")
    options = plain(config.degradation)
    name = options.pop("name")
    return TokenPretrainModel(
        name,
        config.mask_ratio,
        degradation_options=options,
        normalize_target=config.normalize_target,
        init=config.init_weights,
        **model,
    )


def require_own(config: Any, foreign: bool, script: str) -> None:
    """Check that an experiment was made for this script.

    Args:
        config: the run's configuration.
        foreign: whether it has what only those of another script have.
        script: that one.

    Raises:
        InputError: it was not.
    """
    if foreign:
        where = f"settings of {config.output_dir}"
        raise InputError(
            f"these are the settings of {script}", where, f"run {script}, or choose another +experiment=..."
        )


def build_encoder(model: Any, *, readout: str = "none", num_classes: int = 0) -> MaskedViT:
    """The encoder of a ``model`` configuration as a classifier or a source of features.

    Args:
        model: sizes; the decoder's are ignored.
        readout: see :class:`~vireo.backbones.MaskedViT`; ``cls`` has learned positions (section 3.6).

    Raises:
        InputError: an unknown read-out, classes without one, or sizes that do not fit each other.
    """
    if num_classes and readout == "none":
        raise InputError("a classifier reads something out", "readout", "use mean or cls")
    sizes = {key: value for key, value in plain(model).items() if not key.startswith("decoder_")}
    if readout == "cls":
        sizes["positions"] = "learned"
    encoder: Any = MaskedViT(readout=readout, num_classes=num_classes, **sizes)  # type: ignore[arg-type]
    if num_classes:
        nn.init.trunc_normal_(encoder.head.weight, std=0.02)
        encoder.head.weight.data.mul_(HEAD_SCALE)
        encoder.head.bias.data.zero_()
    return encoder


def load_start(model: TokenPretrainModel, path: str) -> None:
    """Continue from the weights of another pre-training: a run's folder, or a checkpoint, ours or the authors'."""
    load_pretraining(model, initial_weights(path))


def load_encoder(encoder: MaskedViT, path: str, patch_embed: str = "strict") -> None:
    """Start a classifier from a pre-training: a run's folder, or a checkpoint, ours, the authors' or MAE's."""
    load_pretrained_encoder(encoder, initial_weights(path), patch_embed)  # type: ignore[arg-type]


def build_adamw(model: nn.Module, optim: Any, batch_size: int, *, layer_decay: float | None = None) -> Optimizer:
    """AdamW as both recipes have it (section 4): the rate is given for 256 images and scales with the batch.

    Args:
        model: its position tables are not trained.
        optim: ``lr``, ``betas``, ``weight_decay``.
        batch_size: images of an optimizer step, over all processes.
        layer_decay: factor from each block to the one before it; None for one rate.

    Raises:
        InputError: a rate that is not positive, or ``layer_decay`` out of range.
    """
    lr = _scaled_rate(optim, batch_size)
    if layer_decay is None:
        groups = weight_decay_groups(model, optim.weight_decay, lr, skip=("decoder.mask_token",))
    else:
        groups = layer_decay_groups(model, optim.weight_decay, layer_decay, lr=lr)
    device = next(model.parameters()).device
    return AdamW(groups, lr=lr, betas=tuple(optim.betas), fused=device.type in ("cpu", "cuda"))


def min_lr_factor(optim: Any, batch_size: int) -> float:
    """The least rate, which does not scale with the batch, as a factor of the rate."""
    return min(1.0, optim.min_lr / _scaled_rate(optim, batch_size))


def schedule_for(optim: Any, epochs: int, steps_per_epoch: int, batch_size: int) -> Schedule:
    """The learning-rate schedule of both recipes (section 4): linear warm-up, then a cosine down to the least rate.

    Args:
        optim: ``lr``, ``min_lr`` and ``warmup_epochs``.
        epochs: of the run.
        steps_per_epoch: optimizer steps.
        batch_size: images of a step, over all processes.
    """
    return build_schedule(
        "warmup_cosine",
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=round(optim.warmup_epochs * steps_per_epoch),
        final=min_lr_factor(optim, batch_size),
    )


def _scaled_rate(optim: Any, batch_size: int) -> float:
    if not optim.lr > 0:
        raise InputError(f"a rate of {optim.lr} trains nothing", "optim.lr", "use a positive one, e.g. 1e-3")
    return optim.lr * batch_size / 256


def compile_blocks(model: nn.Module) -> None:
    """``torch.compile`` each transformer block in place: one small graph for all of them."""
    for module in model.modules():
        if isinstance(module, nn.Sequential) and len(module) and type(module[0]).__name__ == "Block":
            for block in module:
                block.compile()
