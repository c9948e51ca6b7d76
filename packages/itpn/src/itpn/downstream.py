"""Backbone and pyramid of segmentation and detection runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from omegaconf import DictConfig
from torch import nn

from vireo.engine import plain
from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.finished import class_name, final_weights, read_classes, read_config
from vireo.engine.rng import seed_all
from vireo.errors import InputError

from .features import iTPNFeatures
from .hivit import HiViT
from .neck import PyramidNeck
from .sizes import itpn_backbone

_Network = TypeVar("_Network", bound=nn.Module)


def build_features(config: Any, init: str | None, default_depth: int, **maps: Any) -> iTPNFeatures:
    """Backbone and pyramid of a configuration, from a pre-training if there is one.

    Args:
        config: ``model``, size and arguments of the backbone; ``neck``, ``dim`` and ``depth`` of the pyramid, without a
            depth the checkpoint's; ``init_parts``, ``all`` or ``backbone`` for a pyramid that starts fresh;
            ``grad_checkpointing``.
        init: a run's folder, or a checkpoint, ours or the authors'; None: fresh.
        default_depth: of a pyramid for which neither configuration nor checkpoint has one.
        **maps: see :class:`~itpn.features.iTPNFeatures`.

    Raises:
        InputError: a backbone without pyramid, unknown parts, or a checkpoint that does not fit.
    """
    neck = config.neck
    if config.init_parts not in ("all", "backbone"):
        raise InputError(f"{config.init_parts!r} is not a choice", "init_parts", "use all or backbone")
    backbone = itpn_backbone(**plain(config.model))
    if not isinstance(backbone, HiViT):
        remedy = "use a size of HiViT or iTPN, e.g. itpn_base"
        raise InputError(f"{config.model.name} has no feature pyramid", "model.name", remedy)
    backbone.set_grad_checkpointing(config.grad_checkpointing)
    if init is None:
        pyramid = PyramidNeck(backbone.dims, neck.dim, neck.depth or default_depth, backbone.norm_eps)
        return iTPNFeatures(backbone, pyramid, **maps)

    from .identify import summary
    from .official import infer_fpn_depth, load_backbone, load_pyramid, read_state, split_official

    depth = neck.depth
    if depth is None and split_official(state := read_state(init)).neck:
        depth = infer_fpn_depth(state)
    pyramid = PyramidNeck(backbone.dims, neck.dim, depth or default_depth, backbone.norm_eps)
    report = load_pyramid(backbone, pyramid, init) if config.init_parts == "all" else load_backbone(backbone, init)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"{init}: {summary(report)}")
    return iTPNFeatures(backbone, pyramid, **maps)


def depth_of(state: Mapping[str, Any], prefix: str = "backbone.neck.block_16to8.") -> int:
    """Blocks of a top-down step in the weights of a segmenter or detector."""
    return 1 + max((int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)), default=0)


def load_finished(
    folder: str | os.PathLike[str],
    script: str,
    own: str,
    build: Callable[[Any, int], _Network],
    weights: str | os.PathLike[str] | None,
    untrained: bool,
) -> tuple[_Network, DictConfig, tuple[str, ...]]:
    """Network, configuration and classes of a finished run; the network in evaluation mode, on the CPU.

    Args:
        folder: of the run.
        script: that it must be of, and ``own`` a key of its configuration that no other script has.
        build: makes the network of a configuration and a number of classes.
        weights: others of the same network; None for the run's.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.

    Raises:
        InputError: no such run, no weights in it, or weights that do not fit.
    """
    config = read_config(folder, script, (own, "model", "neck", "data"))
    classes = read_classes(folder, script, class_name)
    if untrained:
        seed_all(config.seed)
        return build(config, len(classes)).eval(), config, classes
    path = Path(weights) if weights is not None else final_weights(folder)
    state = state_dict_in(read(path), str(path))
    if config.neck.depth is None:
        config.neck.depth = depth_of(state)
    model = build(config, len(classes))
    fit_state_dict(model, state, str(path))
    return model.eval(), config, classes
