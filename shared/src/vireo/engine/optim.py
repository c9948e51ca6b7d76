"""Optimizer and schedule of transformers in pre-training and fine-tuning: what BEiT, MAE and their successors share."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW

from vireo.engine.layer_decay import Groups
from vireo.engine.schedule import Schedule, build_schedule
from vireo.errors import InputError


def scaled_rate(optim: Any, batch_size: int) -> float:
    """The learning rate ``optim.lr``, which is given for 256 images, of steps of ``batch_size`` images.

    Raises:
        InputError: a rate that is not positive.
    """
    if not optim.lr > 0:
        raise InputError(f"a rate of {optim.lr} trains nothing", "optim.lr", "use a positive one, e.g. 1e-3")
    rate: float = optim.lr * batch_size / 256
    return rate


def adamw(groups: Groups, optim: Any, batch_size: int) -> AdamW:
    """AdamW over parameter groups, in its fused form where there is one.

    Args:
        groups: each with its own ``lr`` and ``weight_decay``, one at the full rate first.
        optim: ``lr`` for 256 images, and ``betas``.
        batch_size: images of an optimizer step, over all processes.

    Raises:
        InputError: a rate that is not positive.
    """
    device = groups[0]["params"][0].device
    rate = scaled_rate(optim, batch_size)
    return AdamW(groups, lr=rate, betas=tuple(optim.betas), fused=device.type in ("cpu", "cuda"))


def min_lr_factor(optim: Any, batch_size: int) -> float:
    """The least rate ``optim.min_lr``, which does not scale with the batch, as a factor of the scaled rate."""
    return min(1.0, float(optim.min_lr) / scaled_rate(optim, batch_size))


def schedule_for(
    optim: Any, epochs: int, steps_per_epoch: int, batch_size: int, name: str = "warmup_cosine"
) -> Schedule:
    """A warm-up that is a line from 0, then a cosine down to the least rate.

    Args:
        optim: ``lr``, ``min_lr`` and ``warmup_epochs``.
        epochs: of the run.
        steps_per_epoch: optimizer steps.
        batch_size: images of a step, over all processes.
        name: ``warmup_cosine`` reaches the full rate at the last step of the warm-up, as in BEiT; ``cosine`` at the
            first step behind it, as in MAE.

    Raises:
        InputError: a rate that is not positive, or an unknown name.
    """
    return build_schedule(
        name,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=round(optim.warmup_epochs * steps_per_epoch),
        warmup_start=0.0,
        final=min_lr_factor(optim, batch_size),
    )


def compile_blocks(model: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> None:
    """``torch.compile`` each module of these kinds in place: one small graph for all blocks of a shape.

    Outside any other of them, so that nothing is compiled twice.
    """
    inner = {id(part) for module in model.modules() if isinstance(module, kinds) for part in list(module.modules())[1:]}
    for module in model.modules():
        if isinstance(module, kinds) and id(module) not in inner:
            module.compile()
