"""Checkpoints of Masked Autoencoders (He et al., CVPR 2022), of the encoder alone or of the whole model."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from vireo.backbones.decoder import TokenDecoder
from vireo.backbones.masked_vit import MaskedViT
from vireo.backbones.positions import require_fixed_table
from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.errors import InputError

_DECODER = {"decoder_embed": "embed", "decoder_blocks": "blocks", "decoder_norm": "norm", "decoder_pred": "head"}


def split_mae(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State of the encoder and, under the names of :class:`TokenDecoder`, of the decoder; empty if there is none."""
    encoder: dict[str, Tensor] = {}
    decoder: dict[str, Tensor] = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head in _DECODER:
            decoder[f"{_DECODER[head]}.{rest}"] = value
        elif head in ("mask_token", "decoder_pos_embed"):
            decoder[head.removeprefix("decoder_")] = value
        else:
            encoder[key] = value
    return encoder, decoder


def load_mae(encoder: MaskedViT, path: str | os.PathLike[str], decoder: TokenDecoder | None = None) -> None:
    """Load a checkpoint of MAE strictly: the encoder, and the decoder if one is given.

    The encoder is ``MaskedViT(class_token=True, positions="sincos_2d", qkv_bias="qkv")``, with ``readout="mean"`` and
    1000 classes for a fine-tuned classifier of MAE, whose positions were trained (``positions="learned"``). The decoder
    is ``TokenDecoder(..., prefix_tokens=1, positions="sincos_2d", qkv_bias="qkv", embed_bias=True)``. Fixed position
    tables follow the networks' image size.

    Raises:
        InputError: the file cannot be read, holds no decoder though one is wanted, or keys do not fit.
    """
    where = str(path)
    encoder_state, decoder_state = split_mae(state_dict_in(read(path), where))
    if decoder is not None and not decoder_state:
        raise InputError("holds an encoder without a decoder", where, "use the checkpoint of the whole model")
    fit_state_dict(encoder, encoder.resized(encoder_state), where)
    if decoder is not None:
        if (table := decoder_state.get("pos_embed")) is not None:
            size = encoder.grid_size, decoder.pos_embed.shape[2]
            require_fixed_table(table[:, decoder.prefix_tokens :], decoder.positions, *size, where)
        fit_state_dict(decoder, {**decoder_state, "pos_embed": decoder.pos_embed.detach()}, where)
