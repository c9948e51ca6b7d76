"""The run of a training: output folder, devices, gradient step, checkpoints, logs. Names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from vireo.engine.checkpoint import load_weights as load_weights
    from vireo.engine.cli import entry_point as entry_point
    from vireo.engine.cli import plain as plain
    from vireo.engine.cli import require_own as require_own
    from vireo.engine.hub import Pretrained as Pretrained
    from vireo.engine.layer_decay import layer_decay_groups as layer_decay_groups
    from vireo.engine.layer_decay import weight_decay_groups as weight_decay_groups
    from vireo.engine.optim import adamw as adamw
    from vireo.engine.optim import compile_blocks as compile_blocks
    from vireo.engine.optim import min_lr_factor as min_lr_factor
    from vireo.engine.optim import scaled_rate as scaled_rate
    from vireo.engine.optim import schedule_for as schedule_for
    from vireo.engine.run import Run as Run
    from vireo.engine.schedule import build_schedule as build_schedule
    from vireo.engine.skipped import print_skipped as print_skipped
    from vireo.engine.skipped import say_skipped as say_skipped
    from vireo.engine.skipped import skipped_lines as skipped_lines
    from vireo.engine.skipped import write_skipped as write_skipped

__all__, __getattr__, __dir__ = exports(__name__, __file__)
