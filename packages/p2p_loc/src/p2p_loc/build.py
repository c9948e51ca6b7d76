"""From configuration to objects: network, optimizer and schedule of a round."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vireo.engine.cli import plain
from vireo.engine.schedule import Schedule, build_schedule
from vireo.errors import InputError

from .localizer import Localizer

NETWORKS = {  # name of a model configuration: where its class is
    "small": ("small", "SmallLocalizer"),
    "reppoints": ("reppoints", "RepPoints"),
    "p2p": ("p2p_head", "P2PNet"),
}
_DOWNLOADS = {"pretrained": False, "backbone_weights": None}


def build_localizer(model: Any, num_classes: int, *, fresh: bool = True) -> Localizer:
    """The network of a ``model`` configuration: ``name`` and the arguments of its class.

    Args:
        model: the configuration.
        num_classes: of the data.
        fresh: False where weights are loaded next, so that nothing is downloaded for the backbone.

    Raises:
        InputError: an unknown name or argument, or a value that the network cannot be built with.
    """
    options = plain(model)
    name = options.pop("name")
    if name not in NETWORKS:
        raise InputError(f"unknown network {name!r}", "model.name", f"use one of {', '.join(NETWORKS)}")
    _require_nms(options)
    if not fresh:
        options |= {key: value for key, value in _DOWNLOADS.items() if key in options}
    module, kind = NETWORKS[name]
    try:
        network: Localizer = getattr(import_module(f"p2p_loc.{module}"), kind)(num_classes=num_classes, **options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # of the constructor
        unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
        what = f"cannot be built ({error})" if unknown is None else f"has no argument {unknown[1]}"
        raise InputError(f"the network {name} {what}", "model", f"see the arguments of p2p_loc.{kind}") from error
    return network


def _require_nms(options: Mapping[str, Any]) -> None:
    """Check the arguments that every network has: nothing else refuses them."""
    for key in ("score_threshold", "nms_iou"):
        value = options.get(key, 0.5)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise InputError(f"{value!r} is no number from 0 to 1", f"model.{key}", "use one, such as 0.5")
    most = options.get("max_detections", 1)
    if type(most) is not int or most < 1:
        raise InputError(f"{most!r} is not a number from 1", "model.max_detections", "use 1 or more")


def build_optimizer(model: nn.Module, optim: Any) -> Optimizer:
    """SGD, Adam or AdamW over everything that trains, with one weight decay for all (norms and biases included).

    Raises:
        InputError: an unknown name, or a rate that trains nothing.
    """
    if not isinstance(optim.lr, int | float) or not optim.lr > 0:
        raise InputError(f"a rate of {optim.lr} trains nothing", "optim.lr", "use a positive one, e.g. 0.01")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if optim.name not in kinds:
        raise InputError(f"unknown optimizer {optim.name!r}", "optim.name", "use sgd, adam or adamw")
    return kinds[optim.name](parameters, lr=optim.lr, weight_decay=optim.weight_decay)


def schedule_for(optim: Any, epochs: int, steps_per_epoch: int) -> Schedule:
    """The learning-rate schedule of an ``optim`` configuration.

    Raises:
        InputError: an unknown schedule, or milestones that are no list of numbers.
    """
    milestones = optim.milestones
    if isinstance(milestones, str | int | float) or any(type(epoch) not in (int, float) for epoch in milestones or ()):
        raise InputError(f"{milestones!r} is no list of epochs", "optim.milestones", "give one, such as [8, 11]")
    return build_schedule(
        optim.schedule,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=optim.warmup_steps,
        warmup_start=optim.warmup_start,
        milestones=list(milestones or ()),
    )
