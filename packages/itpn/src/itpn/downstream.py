"""Backbone and pyramid of segmentation and detection runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig

from vireo.engine import plain
from vireo.errors import InputError

from .features import iTPNFeatures
from .hivit import HiViT
from .neck import PyramidNeck
from .sizes import itpn_backbone


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


def complete_depth(config: DictConfig, state: Mapping[str, Any]) -> None:
    """Write the pyramid's depth into a configuration that leaves it open: that of the weights."""
    if config.neck.depth is None:
        config.neck.depth = depth_of(state)
