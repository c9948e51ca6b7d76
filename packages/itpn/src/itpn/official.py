"""Checkpoints of the authors, and ours, to our networks and back (section 7).

The authors keep backbone, pyramid and heads side by side under one level of names; ours hold ``backbone`` and ``neck``
inside. Every function here takes either: pre-training with pixels or CLIP features, classifiers, detectors, segmenters
and Fast-iTPN. Their buffers of relative position indices are computed, never stored.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vireo.engine.checkpoint import LoadReport, read, state_dict_in
from vireo.engine.finished import initial_weights
from vireo.errors import InputError

from .fast import FastITPN
from .hivit import HiViT
from .neck import PyramidNeck
from .positions import resample_positions
from .relative import Grid, resize_table

State = dict[str, Tensor]
_PYRAMID = ("align_dim_", "split_", "block_16to8.", "block_8to4.", "fpn_modules.")
_BACKBONE = ("patch_embed.", "absolute_pos_embed", "pos_embed", "cls_token", "rel_pos_bias.", "blocks.")
_TABLES = ("relative_position_bias_table", "rel_pos_h", "rel_pos_w")
_READOUT = ("fc_norm.", "head.", "norm.")
_STEP = re.compile(r"block_(?:16to8|8to4)\.(\d+)\.")
_QKV = re.compile(r"(.*\.attn\.)q_proj\.weight")


class Parts(NamedTuple):
    """A checkpoint taken apart: entries of the backbone and of the pyramid by their own names, and all others."""

    backbone: State
    neck: State
    heads: State


def read_state(path: str | os.PathLike[str]) -> State:
    """The state dict of a run's folder or of a file; bare or under ``model``, ``state_dict`` or DeepSpeed's ``module``.

    Raises:
        InputError: no such file, one that cannot be read, or one that would execute code and is refused.
    """
    file = initial_weights(path)
    return state_dict_in(read(file), str(file))


def split_official(state: Mapping[str, Tensor]) -> Parts:
    """Backbone, pyramid and heads of a checkpoint of any layout.

    Args:
        state: flat as the authors' are, under one ``backbone.`` as those of their detectors, or ours.
    """
    inside = ""
    while any(key.startswith(f"{inside}backbone.") for key in state):
        inside += "backbone."
    neck_prefix = inside.removesuffix("backbone.") + "neck."
    parts = Parts({}, {}, {})
    for key, value in state.items():
        name = key.removeprefix(inside)
        if key.endswith("_index"):
            continue
        if inside and key.startswith(neck_prefix):
            parts.neck[key.removeprefix(neck_prefix)] = value
        elif inside and not key.startswith(inside):
            parts.heads[key] = value
        elif name.startswith(_PYRAMID):
            parts.neck[name] = value
        else:
            (parts.backbone if name.startswith(_BACKBONE) else parts.heads)[name] = value
    return parts


def infer_fpn_depth(checkpoint: str | os.PathLike[str] | Mapping[str, Tensor]) -> int:
    """Blocks of each top-down step of the pyramid in a checkpoint: 2 after pixel pre-training, 1 after CLIP's.

    Raises:
        InputError: an unreadable file, or no pyramid in it.
    """
    state = checkpoint if isinstance(checkpoint, Mapping) else read_state(checkpoint)
    steps = {key.split(".")[1] for key in split_official(state).neck if key.startswith("block_16to8.")}
    if not steps:
        where = "state" if isinstance(checkpoint, Mapping) else str(checkpoint)
        raise InputError("holds no pyramid", where, "give a checkpoint of pre-training, of a detector or a segmenter")
    return len(steps)


def fit_backbone(backbone: HiViT | FastITPN, state: Mapping[str, Tensor], where: str) -> tuple[State, LoadReport]:
    """A backbone's entries of a checkpoint, with positions and relative tables resized to its grid.

    Only relative tables may be absent, as they are after pixel pre-training: they then stay at their start. Tables of
    another kind than the backbone's are left out, as the authors do in their detectors.

    Args:
        backbone: to receive them; not changed.
        state: of any layout.
        where: its name in messages.

    Returns:
        The entries, and what is missing of the backbone, its classifier included, and left over of the checkpoint.

    Raises:
        InputError: a missing, foreign or misshaped entry of the backbone.
    """
    own = backbone.state_dict()
    parts = split_official(state)
    given = resized(backbone, parts.backbone, where)
    _require_layer_scale(own, given, where)
    left_out = [key for key in given if key not in own and key.endswith(_TABLES)]
    fresh = [key for key in own if key not in given and key.endswith(_TABLES)]
    readout = [key for key in own if key.startswith(_READOUT)]
    faults = LoadReport(
        missing=[key for key in own if key not in given and key not in fresh and key not in readout],
        unexpected=[key for key in given if key not in own and key not in left_out],
        misshaped=_misshaped(own, given),
    )
    if faults:
        what = f"the checkpoint does not fit the backbone; {faults}"
        raise InputError(what, where, "use the size of its pre-training; itpn-check tells which that is")
    report = LoadReport([*fresh, *readout], [*left_out, *parts.neck, *parts.heads], [])
    return {key: value for key, value in given.items() if key in own}, report


def load_backbone(backbone: HiViT | FastITPN, path: str | os.PathLike[str]) -> LoadReport:
    """Start a backbone from a checkpoint; see :func:`fit_backbone`. Its classifier, if any, stays as it is.

    Args:
        backbone: receives the weights in place.
        path: a run's folder or a file, ours or the authors'.

    Returns:
        What stayed fresh (``missing``) and what was not used (``unexpected``); see :func:`~itpn.identify.summary`.

    Raises:
        InputError: an unreadable file, or an entry of the backbone that is missing, foreign or of another shape.
    """
    entries, report = fit_backbone(backbone, read_state(path), str(path))
    backbone.load_state_dict(entries, strict=False)
    return report


def fit_neck(neck: PyramidNeck, state: Mapping[str, Tensor], where: str) -> tuple[State, LoadReport]:
    """A pyramid's entries of a checkpoint, which may have more or fewer blocks a step; see :func:`load_pyramid`.

    Raises:
        InputError: no pyramid in it, or a missing, foreign or misshaped entry.
    """
    given, own = split_official(state).neck, neck.state_dict()
    if not given:
        raise InputError("holds no pyramid", where, "give a checkpoint of pre-training, or load the backbone alone")
    least = min(infer_fpn_depth(state), neck.depth)
    beyond = [key for key in {**own, **given} if (found := _STEP.match(key)) and int(found[1]) >= least]
    missing, unexpected = [key for key in own if key not in given], [key for key in given if key not in own]
    faults = LoadReport(
        missing=[key for key in missing if key not in beyond],
        unexpected=[key for key in unexpected if key not in beyond],
        misshaped=_misshaped(own, given),
    )
    if faults:
        raise InputError(f"the checkpoint does not fit the pyramid; {faults}", where, "use its dim and dims")
    return {key: value for key, value in given.items() if key in own}, LoadReport(missing, unexpected, [])


def fit_classifier(network: nn.Module, state: Mapping[str, Tensor]) -> State:
    """The entries of a checkpoint that fit norm and head of a network; none where it has another number of classes."""
    own, heads = network.state_dict(), split_official(state).heads
    fitting = {key: value for key, value in heads.items() if key in own and own[key].shape == value.shape}
    return fitting if "head.weight" in fitting else {}


def load_pyramid(backbone: HiViT, neck: PyramidNeck, path: str | os.PathLike[str]) -> LoadReport:
    """Start backbone and pyramid from a checkpoint of pre-training, of a detector or a segmenter.

    A pyramid may be deeper or shallower than that of the checkpoint, as it is in the authors' downstream models:
    blocks beyond are then fresh, or left out, and reported (section 8, row 5).

    Args:
        backbone, neck: receive the weights in place.
        path: a run's folder or a file, ours or the authors'.

    Raises:
        InputError: an unreadable file, no pyramid in it, or an entry that is missing, foreign or of another shape.
    """
    state = read_state(path)
    of_backbone, first = fit_backbone(backbone, state, str(path))
    of_neck, second = fit_neck(neck, state, str(path))
    backbone.load_state_dict(of_backbone, strict=False)
    neck.load_state_dict(of_neck, strict=False)
    others = [key for key in first.unexpected if key not in split_official(state).neck]
    return LoadReport(first.missing + second.missing, others + second.unexpected, [])


def to_official(model: nn.Module) -> State:
    """The state of a backbone, or of a model with ``backbone``, ``neck`` and heads, under the authors' names.

    Their buffers of relative position indices are added, so the result loads strictly into their networks.
    """
    parts = split_official(model.state_dict())
    state = {**parts.backbone, **parts.neck, **parts.heads}
    backbone: Any = next(module for module in model.modules() if isinstance(module, (HiViT, FastITPN)))
    return {**state, **_index_buffers(backbone)}


def fused_qkv(state: Mapping[str, Tensor]) -> State:
    """Fast-iTPN's three projections as one ``qkv`` with bias, for networks that have it so; exact: keys have bias 0."""
    fused: State = {}
    for key, value in state.items():
        found = _QKV.fullmatch(key)
        if found:
            q_bias, v_bias = state[f"{found[1]}q_bias"], state[f"{found[1]}v_bias"]
            weights = [state[f"{found[1]}{name}_proj.weight"] for name in "qkv"]
            fused[f"{found[1]}qkv.weight"] = torch.cat(weights)
            fused[f"{found[1]}qkv.bias"] = torch.cat((q_bias, torch.zeros_like(q_bias), v_bias))
        elif not key.endswith((".k_proj.weight", ".v_proj.weight", ".attn.q_bias", ".attn.v_bias")):
            fused[key] = value
    return fused


def resized(backbone: HiViT | FastITPN, state: Mapping[str, Tensor], where: str) -> State:
    """Positions and relative tables of a checkpoint, bicubic for the grid of a backbone; all else as it is.

    Raises:
        InputError: a table that is not of a square grid, for another grid.
    """
    own, fitted = backbone.state_dict(), dict(state)
    for key, value in state.items():
        if key not in own or value.shape == own[key].shape:
            continue
        value = value.float()  # files of half precision are resized in full
        if key == "absolute_pos_embed" and isinstance(backbone, HiViT):
            fitted[key] = resample_positions(value, _square(value.shape[1], key, where), backbone.pos_grid, "size")
        elif key == "pos_embed" and isinstance(backbone, FastITPN):
            front, table = value.split((n := backbone.num_prefix_tokens, value.shape[1] - n), 1)
            table = resample_positions(table, _square(table.shape[1], key, where), backbone.grid_size, "size")
            fitted[key] = torch.cat((front, table), 1)
        elif key.endswith("relative_position_bias_table") and isinstance(backbone, HiViT):
            side = (_square(len(value), key, where)[0] + 1) // 2
            fitted[key] = resize_table(value, (side, side), backbone.grid_size)
    return fitted


def _square(count: int, key: str, where: str) -> Grid:
    """The square grid of ``count`` entries."""
    side = math.isqrt(count)
    if side * side != count:
        what = f"{key} has {count} entries, which is no square grid, and cannot be resized"
        raise InputError(what, where, "build the model with the img_size of the checkpoint")
    return side, side


def _require_layer_scale(own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Both have layer scales, or neither: left out silently, they would cost all accuracy."""
    ours, theirs = (any(".gamma_" in key for key in state) for state in (own, given))
    if theirs and not ours:
        raise InputError("has layer scales and the model has none", where, "build the model with init_values=0.1")
    if ours and not theirs:
        raise InputError("has no layer scales and the model has", where, "build the model with init_values=None")


def _misshaped(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    pairs = [(key, tuple(given[key].shape), tuple(own[key].shape)) for key in own if key in given]
    return [f"{key} (file {theirs}, model {ours})" for key, theirs, ours in pairs if theirs != ours]


def _index_buffers(backbone: HiViT | FastITPN) -> State:
    """The authors' buffers of indices of a backbone."""
    if isinstance(backbone, HiViT):
        from .relative import places_of, relative_index

        return {"relative_position_index": relative_index(places_of(backbone.grid_size))} if backbone.rel_pos else {}
    if backbone.rel_pos_bias is None:
        return {}
    index = backbone.rel_pos_bias.relative_position_index
    if backbone.rel_pos == "decoupled":
        names = ("high", "width")
        return {f"rel_pos_bias.relative_position_{name}_index": part for name, part in zip(names, index)}
    if backbone.rel_pos == "shared":
        return {"rel_pos_bias.relative_position_index": index}
    first = len(backbone.blocks) - backbone.depths[2]
    return {f"blocks.{i}.attn.relative_position_index": index for i in range(first, len(backbone.blocks))}
