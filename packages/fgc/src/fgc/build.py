"""From configuration to objects: network, objective, optimizer and recipe of a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

from vireo.engine.checkpoint import read
from vireo.engine.cli import plain
from vireo.engine.finished import initial_weights
from vireo.errors import InputError

from . import resnet
from .attach import attach_gates
from .blocks import gated_blocks
from .gate import gates_of
from .macs import count_macs
from .objective import GateObjective, RhoController, attach_objective, default_coupled_blocks
from .official import from_official
from .schedules import Recipe

_BANK_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


RAMP = 0.8  # share of rho_epochs in which a controller brings pruning to its target


def build_network(model: Any, num_classes: int) -> nn.Module:
    """The gated network of a ``model`` configuration: one of the paper's CIFAR networks, or a ResNet of timm.

    Raises:
        InputError: unknown name, or pre-trained weights that cannot be had.
    """
    if model.name in resnet.DEPTHS:
        network: nn.Module = getattr(resnet, model.name)(num_classes, width=model.width, hidden=model.hidden)
    else:
        network = attach_gates(_timm_network(model.name, num_classes, model.pretrained), model.hidden)
    return network.to(memory_format=torch.channels_last) if model.channels_last else network


def _timm_network(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        known = ", ".join([*resnet.DEPTHS, "resnet18", "resnet34", "resnet50"])
        raise InputError(f"unknown network {name!r}", "model.name", f"use one of {known}, or another ResNet of timm")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes)
    except Exception as error:  # the hub and its network layers raise many types
        if not pretrained:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "connect to the network, or set model.pretrained=false and give weights with init=..."
        raise InputError(f"pre-trained weights cannot be had ({reason[:160]})", f"model.name={name}", remedy) from error


def load_initial_weights(network: nn.Module, path: str) -> None:
    """Start from the weights of a run (its folder) or of a checkpoint, ours or the authors', strictly.

    Raises:
        InputError: no such file, a file that is refused, or keys that do not fit.
    """
    file = initial_weights(path)
    from_official(network, read(file), str(file))


def build_objective(network: nn.Module, recipe: Recipe, config: Any, num_samples: int) -> GateObjective:
    """Attach banks (in the FGC stage) and controller (with a target) to ``network``, as the configuration says.

    Args:
        network: on the CPU.
        recipe: its stage decides on banks.
        config: the run's configuration: ``coupling``, ``controller`` and ``image_size``.
        num_samples: images of the training set.

    Raises:
        InputError: blocks that there are not, an unknown type of banks, or a target that is no ratio.
    """
    options = plain(config.coupling)
    chosen = options.pop("blocks")
    if options["bank_dtype"] not in _BANK_DTYPES:
        known = " or ".join(_BANK_DTYPES)
        raise InputError(f"unknown type {options['bank_dtype']!r}", "coupling.bank_dtype", f"use {known}")
    options["bank_dtype"] = _BANK_DTYPES[options["bank_dtype"]]
    coupled = (default_coupled_blocks(network) if chosen is None else chosen) if recipe.stage != "bas" else []
    target = config.controller.target_pruning
    controller = None
    if target is not None:
        steps = RAMP * recipe.rho_epochs * math.ceil(num_samples / config.data.batch_size)
        controller = RhoController(target, recipe.rho, ramp_steps=round(steps))
    objective = GateObjective(
        count_macs(network, tuple(config.image_size)),
        [block.gate.out_channels for block in gated_blocks(network)],
        coupled,
        num_samples,
        options,
        controller,
    )
    return attach_objective(network, objective)


def build_optimizer(network: nn.Module, optim: Any) -> SGD:
    """SGD with Nesterov momentum; group 0 holds the gates, without weight decay, group 1 the rest (section 4)."""
    gates = [parameter for gate in gates_of(network) for parameter in gate.parameters()]
    of_gates = {id(parameter) for parameter in gates}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in of_gates]
    groups = [{"params": gates, "weight_decay": 0.0}, {"params": rest, "weight_decay": optim.weight_decay}]
    return SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=True)
