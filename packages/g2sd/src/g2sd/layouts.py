"""Names of the same entries in the checkpoints that people have, brought to those of the authors (section 7).

Known are the authors' names, which are MAE's and timm's, ours (``encoder.``, ``decoder.`` and heads), and those of
Hugging Face's ViTMAE, with queries, keys and values apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vireo.engine.checkpoint import read, state_dict_in
from vireo.engine.finished import initial_weights
from vireo.errors import InputError

State = dict[str, Tensor]

_OURS = {  # ours to the authors', the first that fits
    "encoder.": "",
    "decoder.embed.": "decoder_embed.",
    "decoder.blocks.": "decoder_blocks.",
    "decoder.norm.": "decoder_norm.",
    "decoder.head.": "decoder_pred.",
    "decoder.mask_token": "mask_token",
    "decoder.pos_embed": "decoder_pos_embed",
    "decoder_head.": "decoderfeature_pred.",
    "encoder_head.": "encoderfeature_pred.",
}
_THEIRS = {theirs: ours for ours, theirs in _OURS.items() if theirs}

_ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.", "fc_norm.")
_HF_PREFIX = re.compile(r"^(?:vit\.|decoder\.(?=decoder_|mask_token))")
_HF_LAYER = re.compile(r"^(encoder\.layer|decoder_layers)\.(\d+)\.(.+)\.(weight|bias)$")
_HF_IN_LAYER = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_HF_FIRST = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
_QUERY = "attention.attention.query"


def read_state(path: str | os.PathLike[str]) -> State:
    """The state dict of a run's folder or of a file of any layout, under the authors' names.

    Raises:
        InputError: no such file, one that cannot be read or would execute code, or no encoder in it.
    """
    file = initial_weights(path)
    return to_authors(state_dict_in(read(file), str(file)), str(file))


def to_authors(state: Mapping[str, Tensor], where: str) -> State:
    """A state dict under the authors' names, whichever of the known layouts it has; unknown names stay.

    Raises:
        InputError: no vision transformer with a class token in it, or one with entries missing that belong together.
    """
    if all(key.startswith("student.") for key in state):  # g2sd.GenericDistiller
        state = {key.removeprefix("student."): value for key, value in state.items()}
    if any(key.endswith("embeddings.patch_embeddings.projection.weight") for key in state):
        state = _from_hugging_face(state, where)
    elif "encoder.patch_embed.proj.weight" in state:
        state = {_renamed(key, _OURS): value for key, value in state.items()}
    if "patch_embed.proj.weight" not in state:
        what = "holds no encoder of a masked autoencoder under known names"
        if any(key.startswith("backbone.") for key in state):
            what = "holds a detector or segmenter, no encoder of a masked autoencoder"
        raise InputError(what, where, "give a checkpoint of MAE, of the authors of G2SD, or of one of our runs")
    return dict(state)


def encoder_of(state: Mapping[str, Tensor]) -> State:
    """The entries of the encoder in a state dict under the authors' names."""
    return {key: value for key, value in state.items() if key.startswith(_ENCODER)}


def to_ours(state: Mapping[str, Tensor]) -> State:
    """The authors' names to those of :class:`~g2sd.MaskedAutoencoder` and :class:`~g2sd.GenericStudent`."""
    names = {key: _renamed(key, _THEIRS) for key in state}
    return {f"encoder.{key}" if name == key else name: state[key] for key, name in names.items()}


def _renamed(key: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _from_hugging_face(state: Mapping[str, Tensor], where: str) -> State:
    flat = {_HF_PREFIX.sub("", key): value for key, value in state.items()}
    found: State = {}
    for key, value in flat.items():
        layer = _HF_LAYER.match(key)
        if layer is None:
            found[_renamed(key, _HF_FIRST)] = value
            continue
        side, number, name, kind = layer.groups()
        block = f"{'blocks' if side == 'encoder.layer' else 'decoder_blocks'}.{number}"
        if name == _QUERY:
            parts = [key.replace("attention.query", f"attention.{part}") for part in ("query", "key", "value")]
            if absent := [part for part in parts if part not in flat]:
                what = f"queries without {', '.join(absent)}: the file is not complete"
                raise InputError(what, where, "download it again")
            found[f"{block}.attn.qkv.{kind}"] = torch.cat([flat[part] for part in parts])
        elif not name.startswith("attention.attention."):
            found[f"{block}.{_HF_IN_LAYER.get(name, name)}.{kind}"] = value
    return found
