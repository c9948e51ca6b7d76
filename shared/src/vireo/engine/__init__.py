"""The run of a training: output folder, devices, gradient step, checkpoints, logs. Names are imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vireo.engine.checkpoint import load_weights as load_weights
    from vireo.engine.cli import entry_point as entry_point
    from vireo.engine.hub import Pretrained as Pretrained
    from vireo.engine.layer_decay import layer_decay_groups as layer_decay_groups
    from vireo.engine.layer_decay import weight_decay_groups as weight_decay_groups
    from vireo.engine.run import Run as Run
    from vireo.engine.schedule import build_schedule as build_schedule

_HOMES = {
    "Run": "run",
    "load_weights": "checkpoint",
    "build_schedule": "schedule",
    "Pretrained": "hub",
    "entry_point": "cli",
    "layer_decay_groups": "layer_decay",
    "weight_decay_groups": "layer_decay",
}
__all__ = [
    "Pretrained",
    "Run",
    "build_schedule",
    "entry_point",
    "layer_decay_groups",
    "load_weights",
    "weight_decay_groups",
]


def __getattr__(name: str) -> Any:
    """Import torch and Lightning only when something that needs them is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
