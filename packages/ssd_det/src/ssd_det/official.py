"""Checkpoints in the authors' key layout (mmdetection 2), both ways.

No weights were released with the paper; the layout matters to owners of own checkpoints and to the reference tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vireo.errors import InputError

# Ours -> the authors'. Order matters: the first prefix that fits is used.
_PREFIXES = (
    ("refiner.mlp.fc1.", "roi_head.bbox_head.shared_fcs.0."),
    ("refiner.mlp.fc2.", "roi_head.bbox_head.shared_fcs.1."),
    ("refiner.sisd_mlp.fc1.", "roi_head.bbox_head.objness_2fcs.0."),
    ("refiner.sisd_mlp.fc2.", "roi_head.bbox_head.objness_2fcs.1."),
    ("refiner.spsd1.", "roi_head.bbox_head.fc_distill_reg_ori."),
    ("refiner.stage1_cls.", "roi_head.bbox_head.fc_cls.0."),
    ("refiner.stage1_ins.", "roi_head.bbox_head.fc_ins.0."),
    ("refiner.spsd2.", "roi_head.bbox_head.fc_reg.0."),
    ("refiner.stage2_cls.", "roi_head.bbox_head.fc_cls.1."),
    ("refiner.stage2_ins.", "roi_head.bbox_head.fc_ins.1."),
    ("refiner.iou.", "roi_head.bbox_head.fc_iou."),
    ("rcnn.mlp.fc1.", "roi_head.bbox_head1.shared_fcs.0."),
    ("rcnn.mlp.fc2.", "roi_head.bbox_head1.shared_fcs.1."),
    ("rcnn.cls.", "roi_head.bbox_head1.fc_cls."),
    ("rcnn.reg.", "roi_head.bbox_head1.fc_reg."),
    ("rpn.conv.", "rpn_head.rpn_conv."),
    ("rpn.cls.", "rpn_head.rpn_cls."),
    ("rpn.reg.", "rpn_head.rpn_reg."),
    ("backbone.", "backbone."),
    ("neck.", "neck."),
)
# In the authors' state dict but never evaluated with the published configurations: output features of each.
_UNUSED_HEADS = {"fc_distill_reg_re": 4, "fc_objness": 1}
_UNUSED = re.compile(r"roi_head\.bbox_head\.(" + "|".join(_UNUSED_HEADS) + r")\.")


def official_key(name: str) -> str:
    """The authors' name of one of our parameters or buffers."""
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def to_official(state: Mapping[str, Tensor], unused_heads: bool = True) -> dict[str, Tensor]:
    """Our state dict in the authors' layout.

    Args:
        unused_heads: add the two heads that the authors' model creates and never uses, as zeros, so that it loads
            strictly.
    """
    converted = {official_key(name): value for name, value in state.items()}
    mlp = converted.get("roi_head.bbox_head.shared_fcs.1.weight")
    if unused_heads and mlp is not None:
        for head, rows in _UNUSED_HEADS.items():
            converted[f"roi_head.bbox_head.{head}.weight"] = mlp.new_zeros(rows, mlp.shape[1])
            converted[f"roi_head.bbox_head.{head}.bias"] = mlp.new_zeros(rows)
    return converted


def from_official(model: nn.Module, checkpoint: Mapping[str, Any]) -> list[str]:
    """Load a checkpoint in the authors' layout into an :class:`~ssd_det.model.SSDDet`, strictly.

    Args:
        model: built like the checkpoint's network.
        checkpoint: the state dict, or the file's content with it under ``state_dict``.

    Returns:
        The checkpoint's keys that were left out on purpose: heads that are never evaluated, and the whole refiner where
        ``model`` has none.

    Raises:
        InputError: listing every missing, unexpected and misshaped key.
    """
    state: Mapping[str, Tensor] = checkpoint.get("state_dict", checkpoint)
    own = model.state_dict()
    wanted = {official_key(name): name for name in own}
    has_refiner = any(name.startswith("refiner.") for name in own)
    left_out = [
        key for key in state if _UNUSED.match(key) or (not has_refiner and key.startswith("roi_head.bbox_head."))
    ]
    unexpected = [key for key in state if key not in wanted and key not in left_out]
    optional = ".num_batches_tracked"
    missing = [key for key in wanted if key not in state and not key.endswith(optional)]
    misshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[name].shape)}"
        for key, name in wanted.items()
        if key in state and state[key].shape != own[name].shape
    ]
    if missing or unexpected or misshaped:
        parts = [("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped)]
        listed = "; ".join(f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in parts if keys)
        raise InputError(
            f"the keys do not fit the model ({listed})",
            "checkpoint in the authors' layout",
            "build the model with the checkpoint's backbone, number of classes and refiner settings",
        )
    with torch.no_grad():
        for key, name in wanted.items():
            if key in state:
                own[name].copy_(state[key])
    return left_out
