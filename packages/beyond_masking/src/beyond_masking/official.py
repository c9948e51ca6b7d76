"""Checkpoints in the authors' layout, of pre-training and of classifiers, to ours and back (section 7)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vireo.backbones import MaskedViT
from vireo.engine.checkpoint import LoadReport, fit_state_dict, read, state_dict_in
from vireo.errors import InputError

from .model import TokenPretrainModel

# ours and the authors' names of the same entries, beside the biases of attention
_RENAMED = (("decoder.embed.", "encoder_to_decoder."), ("decoder.mask_token", "mask_token"))
_SCALES = ((re.compile(r"\.gamma_([12])$"), r".ls\1.gamma"), (re.compile(r"\.ls([12])\.gamma$"), r".gamma_\1"))
_TABLES = ("encoder.pos_embed", "decoder.pos_embed")
_UNUSED = "encoder.cls_token"  # declared by one of the released folders, used by none


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict, of pre-training or of a classifier, with our names.

    Biases of queries and values become one vector with zeros for the keys; the unused class token is left out. Fixed
    position tables, which the authors do not store, are left to the model.

    Raises:
        InputError: only one of the two biases of an attention.
    """
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == _UNUSED:
            continue
        if key.endswith(".attn.v_bias"):
            if key.replace("v_bias", "q_bias") not in state:
                raise InputError("a bias of values without that of queries", key, "use a complete checkpoint")
            continue
        if key.endswith(".attn.q_bias"):
            other = state.get(key.replace("q_bias", "v_bias"))
            if other is None:
                raise InputError("a bias of queries without that of values", key, "use a complete checkpoint")
            ours[key.replace("q_bias", "qkv.bias")] = torch.cat((value, torch.zeros_like(value), other))
            continue
        for new, old in _RENAMED:
            if key.startswith(old):
                key = new + key.removeprefix(old)
        ours[_SCALES[0][0].sub(_SCALES[0][1], key)] = value
    return ours


def to_official(model: TokenPretrainModel | MaskedViT) -> dict[str, Tensor]:
    """The state of a pre-training model or a classifier under the authors' names, without fixed position tables."""
    theirs: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if key in _TABLES or (key == "pos_embed" and isinstance(model, MaskedViT) and model.positions != "learned"):
            continue
        if key.endswith(".attn.qkv.bias"):
            q, _, v = value.chunk(3)
            theirs[key.replace("qkv.bias", "q_bias")], theirs[key.replace("qkv.bias", "v_bias")] = q, v
            continue
        for new, old in _RENAMED:
            if key.startswith(new):
                key = old + key.removeprefix(new)
        theirs[_SCALES[1][0].sub(_SCALES[1][1], key)] = value
    return theirs


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the authors' names."""
    return any(key.endswith(".attn.q_bias") for key in state)


def load_pretraining(model: TokenPretrainModel, path: str | os.PathLike[str]) -> None:
    """Load a whole pre-training model strictly, from our layout or the authors'.

    Raises:
        InputError: an unreadable file, or keys that do not fit.
    """
    state = state_dict_in(read(path), str(path))
    if is_official(state):
        own = model.state_dict()
        state = {**from_official(state), **{key: own[key] for key in _TABLES}}
    fit_state_dict(model, state, str(path))


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's entries of any of the layouts, under the names of :class:`~vireo.backbones.MaskedViT`.

    Takes pre-training checkpoints (ours, the authors', MAE's) and encoders or classifiers alone; decoders are left out.
    """
    for prefix in ("encoder.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            state.pop("cls_token", None)  # of no use: see _UNUSED
    state = {key: value for key, value in state.items() if not key.startswith(("decoder", "mask_token"))}
    return from_official(state) if is_official(state) else state


def load_pretrained_encoder(
    model: MaskedViT,
    checkpoint: str | os.PathLike[str],
    patch_embed: Literal["strict", "skip", "replicate"] = "strict",
) -> LoadReport:
    """Start a classifier or encoder from pre-trained weights.

    Everything in the encoder's blocks and patch embedding must fit. What a read-out brings with it (``fc_norm``,
    ``head``, with ``cls`` also its token and positions) may stay fresh, and the pre-training's own norm is dropped
    where the read-out has another one (section 3.6).

    Args:
        model: receives the weights in place.
        checkpoint: of pre-training, ours or the authors', of MAE, or of an encoder.
        patch_embed: for an encoder of gray images whose kernels ``(D, 1, p, p)`` do not fit colours: ``skip`` keeps the
            fresh kernels, as the authors' loader does (the bias is loaded); ``replicate`` gives each colour a third.

    Returns:
        Keys that stayed fresh (``missing``) or were not used (``unexpected``).

    Raises:
        InputError: an unreadable file, a missing or misshaped entry of the encoder.
    """
    where = str(checkpoint)
    if patch_embed not in ("strict", "skip", "replicate"):
        raise InputError(f"unknown choice {patch_embed!r}", "patch_embed", "use strict, skip or replicate")
    state = encoder_state(state_dict_in(read(checkpoint), where))
    state = _with_kernels(model, state, patch_embed, where)
    if "pos_embed" in state or model.positions != "learned":
        state = model.resized(state)
    readout = {key for key in model.state_dict() if key.startswith(("fc_norm.", "head.", "norm.", "cls_token"))}
    readout |= {"pos_embed"} if model.positions == "learned" else set()
    if model.num_classes and "head.weight" in state and state["head.weight"].shape != model.head.weight.shape:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    report = fit_state_dict(model, state, where, strict=False)
    skipped = {"patch_embed.proj.weight"} if patch_embed == "skip" else set()
    absent = [key for key in report.missing if key not in readout | skipped]
    foreign = [key for key in report.unexpected if not key.startswith(("norm.", "fc_norm.", "head.", "cls_token"))]
    faults = LoadReport(absent, foreign, report.misshaped)
    if faults:
        raise InputError(
            f"the checkpoint does not fit the encoder; {faults}", where, "use the model of its pre-training"
        )
    return report


def _with_kernels(model: MaskedViT, state: dict[str, Tensor], choice: str, where: str) -> dict[str, Tensor]:
    """``state`` with patch kernels of one channel treated as chosen."""
    kernels, own = state.get("patch_embed.proj.weight"), model.patch_embed.proj.weight
    if kernels is None or kernels.shape == own.shape or kernels.shape[1] != 1:
        return state
    if choice == "replicate":
        channels = own.shape[1]
        return {**state, "patch_embed.proj.weight": kernels.expand(-1, channels, -1, -1) / channels}
    if choice == "skip":
        return {key: value for key, value in state.items() if key != "patch_embed.proj.weight"}
    remedy = "set patch_embed=replicate to share them among the colours, or patch_embed=skip for fresh ones"
    raise InputError("the patch kernels are those of gray images", where, remedy)
