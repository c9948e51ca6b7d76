"""From configuration to objects: model, optimizer and schedule of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vireo.engine.cli import plain
from vireo.engine.schedule import Schedule, build_schedule
from vireo.errors import InputError

from .model import SSDDet
from .oamil import OAMILDet


def build_model(model: Any, refiner: Any, num_classes: int) -> SSDDet:
    """The detector of a ``model`` and a ``refiner`` configuration; OA-MIL if the model has an ``oa_mil`` entry.

    Raises:
        InputError: OA-MIL together with a refiner.
    """
    options, detector = plain(refiner), plain(model)
    enabled = options.pop("enabled")
    oa_mil = detector.pop("oa_mil", None)
    if oa_mil is None:
        return SSDDet(num_classes=num_classes, refiner=options if enabled else None, **detector)
    if enabled:
        raise InputError("OA-MIL has no refiner", "model.oa_mil", "add refiner=none")
    return OAMILDet(num_classes=num_classes, **detector, **oa_mil)


def build_optimizer(model: nn.Module, optim: Any) -> Optimizer:
    """SGD or AdamW over everything that trains, with one weight decay for all (norms and biases included).

    Raises:
        InputError: unknown name.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    if optim.name == "adamw":
        return torch.optim.AdamW(parameters, lr=optim.lr, weight_decay=optim.weight_decay)
    raise InputError(f"unknown optimizer {optim.name!r}", "optim.name", "use sgd or adamw")


def schedule_for(optim: Any, epochs: int, steps_per_epoch: int) -> Schedule:
    """The learning-rate schedule of an ``optim`` configuration."""
    return build_schedule(
        optim.schedule,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=optim.warmup_steps,
        milestones=list(optim.milestones),
    )
