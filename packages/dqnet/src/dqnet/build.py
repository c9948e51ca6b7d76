"""From configuration to objects: the network of a run, what it starts from, its optimizer and schedule."""

from __future__ import annotations

import re
from typing import Any

from torch.optim import AdamW

from vireo.engine import plain
from vireo.engine.schedule import Schedule, poly, with_warmup
from vireo.errors import InputError

from .groups import param_groups
from .model import DQnet


def build_network(config: Any) -> DQnet:
    """The network of a configuration's ``model``, freshly drawn.

    Raises:
        InputError: an unknown arm, size or option, or parts that do not fit each other.
    """
    try:
        return DQnet(**plain(config.model))
    except TypeError as error:  # of the constructors: it names the argument
        unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
        if unknown is None:
            raise
        remedy = "see the arguments of dqnet.DQnet, GlobalViT and QueriedResNet"
        raise InputError(f"no part of the network has an argument {unknown[1]}", "model", remedy) from error


def load_start(network: DQnet, init: Any) -> list[str]:
    """Start a network, or its branches, from a run's folder or a checkpoint; what none is given for stays fresh.

    Args:
        network: changed in place.
        init: ``model``, ``vit`` and ``resnet``, each None or what :mod:`dqnet.weights` takes.

    Returns:
        What was loaded, a line for each.

    Raises:
        InputError: a branch that this arm does not have, one given twice, or weights that cannot be read or do not fit.
    """
    from .weights import load_model, load_resnet, load_vit

    if init.model is not None:
        if init.vit is not None or init.resnet is not None:
            what = "the whole network and a branch of it"
            raise InputError(what, "init.model", "give init.model, or init.vit and init.resnet")
        return [load_model(network, init.model)]
    reports = []
    if init.vit is not None:
        reports.append(load_vit(network.vit, init.vit))
    if init.resnet is not None:
        reports.append(load_resnet(network.resnet, init.resnet))
    return reports


def build_optimizer(network: DQnet, optim: Any, *, fused: bool = True) -> AdamW:
    """AdamW over :func:`~dqnet.groups.param_groups`. A frozen norm of the transformer needs no gradient from then on.

    Args:
        network: of any arm.
        optim: arguments of ``param_groups``, and ``betas``.
        fused: False where gradients are scaled (float16), which fused optimizers would undo twice.

    Raises:
        InputError: a value out of range.
    """
    options = plain(optim)
    betas = tuple(options.pop("betas"))
    groups = param_groups(network, **options)
    if options["freeze_vit_norm"] and network.vit is not None:
        network.vit.norm.requires_grad_(False)
    return AdamW(groups, lr=optim.lr, betas=betas, fused=fused)


def build_schedule(schedule: Any, total_steps: int) -> Schedule:
    """Polynomial decay behind a linear warm-up.

    Args:
        schedule: ``power``, ``min`` (a factor) and ``warmup_steps``.
        total_steps: of the run.

    Raises:
        InputError: a value out of range.
    """
    if not 0 <= schedule.min <= 1:
        raise InputError(f"a factor of {schedule.min}", "schedule.min", "use one in [0, 1], the paper's is 0.001")
    if schedule.power <= 0:
        raise InputError(f"a power of {schedule.power}", "schedule.power", "use a positive one, the paper's is 0.9")
    return with_warmup(poly(total_steps, schedule.power, schedule.min), schedule.warmup_steps)
