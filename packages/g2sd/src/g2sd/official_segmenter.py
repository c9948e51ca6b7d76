"""Segmenters in the layout of the authors' checkpoints, which is mmsegmentation's, both ways (section 7)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.finished import initial_weights
from vireo.errors import InputError

from .identify import identify
from .layouts import State
from .segmenter import Segmenter

Part = Literal["student", "teacher"]
PARTS = ("student", "teacher")
_INDEX = "attn.relative_position_index"  # computed from the size
_HOOKS = ("student_decode_head_conv_seg", "teacher_decode_head_conv_seg")  # buffers of a distiller in training
_FAMILIES = ("backbone.", "decode_head.", "auxiliary_head.")


def read_segmenter(path: str | os.PathLike[str], part: Part = "student") -> State:
    """The state dict of a segmenter from a run's folder or a file, ours or the authors'.

    Args:
        path: the folder or file.
        part: which of the two networks of a distiller's checkpoint; another checkpoint holds only one.

    Raises:
        InputError: an unreadable file, no segmenter in it, or entries that are none of a segmenter's.
    """
    if part not in PARTS:
        raise InputError(f"unknown part {part!r}", "part", f"use one of {', '.join(PARTS)}")
    file = initial_weights(path)
    where = str(file)
    state = state_dict_in(read(file), where)
    if any(key.startswith(("student.", "teacher.")) for key in state):
        whole = {key: value for key, value in state.items() if key not in _HOOKS}
        foreign = [key for key in whole if not key.startswith(("student.", "teacher."))]
        state = {key.removeprefix(f"{part}."): value for key, value in whole.items() if key.startswith(f"{part}.")}
        if foreign or not state:
            what = f"a distiller's checkpoint with {', '.join(foreign[:5])}" if foreign else f"holds no {part}"
            raise InputError(what, where, "give a checkpoint of a segmenter, or of the authors' distiller")
    state = {key: value for key, value in state.items() if not key.endswith(_INDEX)}
    _require_segmenter(state, where)
    return state


def _require_segmenter(state: Mapping[str, Tensor], where: str) -> None:
    if not any(key.startswith("decode_head.") for key in state):
        what = "holds no segmenter: it has no decode_head"
        if any(key.startswith(("blocks.", "encoder.blocks.")) for key in state):
            what = "holds an encoder, no segmenter"
        raise InputError(what, where, "train one with g2sd-segment init=... and give its folder")
    needed = ("backbone.blocks.0.attn.relative_position_bias_table", "backbone.pos_embed", "decode_head.conv_seg.bias")
    if absent := [key for key in needed if key not in state]:
        what = f"holds a segmenter of another kind: it has no {', '.join(absent)}"
        raise InputError(what, where, "give one over a BEiT-style transformer, as g2sd-segment trains it")
    if foreign := [key for key in state if not key.startswith(_FAMILIES)]:
        what = f"has entries that are none of a segmenter's: {', '.join(foreign[:5])}"
        raise InputError(what, where, "give a checkpoint of a segmenter alone")


def segmenter_options(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Sizes of the segmenter in a state dict of :func:`read_segmenter`, as arguments of :class:`~g2sd.Segmenter`.

    Raises:
        InputError: a segmenter for crops that are not square, whose sides no shape tells.
    """
    prefix = "backbone."
    encoder = identify({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, where).encoder
    table = state["backbone.blocks.0.attn.relative_position_bias_table"]
    side = math.isqrt(len(state["backbone.pos_embed"][0]) - 1)
    if (2 * side - 1) ** 2 + 3 != len(table):
        raise InputError("is for crops that are not square", where, "give the folder of its run")
    auxiliary = state.get("auxiliary_head.conv_seg.weight")
    return {
        **encoder,
        "num_heads": table.shape[1],
        "num_classes": len(state["decode_head.conv_seg.bias"]),
        "channels": state["decode_head.conv_seg.weight"].shape[1],
        "auxiliary_channels": 0 if auxiliary is None else auxiliary.shape[1],
    }


def from_official(path: str | os.PathLike[str], part: Part = "student") -> Segmenter:
    """The segmenter in a checkpoint, strictly loaded; sizes are read from its shapes.

    Args:
        path, part: as of :func:`read_segmenter`.

    Raises:
        InputError: see :func:`read_segmenter` and :func:`segmenter_options`, or entries that are missing.
    """
    state, where = read_segmenter(path, part), str(path)
    model = Segmenter(**segmenter_options(state, where))
    fit_state_dict(model, state, where)
    return model


def to_official(model: Segmenter) -> State:
    """The state dict under the authors' names, which loads strictly there: the index of each block is added."""
    backbone: Any = model.backbone
    indices = {f"backbone.blocks.{i}.{_INDEX}": backbone.relative_position_index for i in range(len(backbone.blocks))}
    return {**model.state_dict(), **indices}
