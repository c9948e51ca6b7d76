"""From configuration to objects: models, optimizers, weights to start from."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import Block
from torch import nn
from torch.optim import Optimizer

from vireo.backbones import MaskedViT
from vireo.engine import adamw, layer_decay_groups, plain, require_own, scaled_rate, weight_decay_groups
from vireo.engine.finished import initial_weights
from vireo.engine.optim import compile_blocks as compile_each
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
    lr = scaled_rate(optim, batch_size)
    if layer_decay is None:
        groups = weight_decay_groups(model, optim.weight_decay, lr, skip=("decoder.mask_token",))
    else:
        groups = layer_decay_groups(model, optim.weight_decay, layer_decay, lr=lr)
    return adamw(groups, optim, batch_size)


def compile_blocks(model: nn.Module) -> None:
    """``torch.compile`` each transformer block in place: one small graph for all of them."""
    compile_each(model, Block)
