"""The sizes of encoders and masked autoencoders, by the names of the authors' code (section 3.1 of the notes)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from vireo.errors import InputError

if TYPE_CHECKING:
    from .mae import MaskedAutoencoder

ENCODERS: Mapping[str, Mapping[str, int]] = {
    "vit_tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "vit_huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}


def _decoder(dim: int, depth: int, heads: int) -> dict[str, int]:
    return {"decoder_dim": dim, "decoder_depth": depth, "decoder_heads": heads}


_SMALL_HEADS = {128: 4, 256: 8, 512: 16}
MODELS: Mapping[str, Mapping[str, int]] = {
    "mae_vit_base_patch16": {**ENCODERS["vit_base"], **_decoder(512, 8, 16)},
    "mae_vit_large_patch16": {**ENCODERS["vit_large"], **_decoder(512, 8, 16)},
    "mae_vit_huge_patch14": {**ENCODERS["vit_huge"], **_decoder(512, 8, 16)},
    "mae_vit_small_patch16": {**ENCODERS["vit_small"], **_decoder(256, 4, 8)},
    "mae_vit_tiny_patch16": {**ENCODERS["vit_tiny"], **_decoder(128, 4, 4)},
    "mae_vit_tiny_patch16_12h_dec128d4b": {**ENCODERS["vit_tiny"], "num_heads": 12, **_decoder(128, 4, 4)},
    "mae_vit_tiny_patch16_dec64d4b": {**ENCODERS["vit_tiny"], **_decoder(64, 4, 4)},
    "mae_vit_tiny_patch16_dec128d4b": {**ENCODERS["vit_tiny"], **_decoder(128, 4, 4)},
    "mae_vit_small_patch16_dec192d4b": {**ENCODERS["vit_small"], **_decoder(192, 4, 8)},
    **{
        f"mae_vit_small_patch16_dec{dim}d{depth}b": {**ENCODERS["vit_small"], **_decoder(dim, depth, heads)}
        for dim, heads in _SMALL_HEADS.items()
        for depth in (2, 4, 8)
    },
    "mae_vit_base_patch16_dec256d4b": {**ENCODERS["vit_base"], **_decoder(256, 4, 8)},
    "mae_vit_base_patch16_dec512d4b": {**ENCODERS["vit_base"], **_decoder(512, 4, 16)},
    "mae_vit_base_patch16_dec512d8b": {**ENCODERS["vit_base"], **_decoder(512, 8, 16)},
}


def model_options(name: str, **options: Any) -> dict[str, Any]:
    """Arguments of :class:`~g2sd.MaskedAutoencoder` for a size; ``options`` come before the size's own.

    Raises:
        InputError: an unknown name.
    """
    return {**_known(name, MODELS, "model"), **options}


def encoder_options(name: str, **options: Any) -> dict[str, Any]:
    """Arguments of an encoder for a size, of :data:`ENCODERS` or :data:`MODELS`; ``options`` come before its own.

    Raises:
        InputError: an unknown name.
    """
    size = _known(name, {**MODELS, **ENCODERS}, "encoder")
    return {**{key: value for key, value in size.items() if not key.startswith("decoder_")}, **options}


def mae_model(name: str, **options: Any) -> MaskedAutoencoder:
    """A masked autoencoder by its name in :data:`MODELS`.

    Args:
        name: e.g. ``mae_vit_small_patch16``, the paper's student.
        **options: arguments of :class:`~g2sd.MaskedAutoencoder` that come before the size's own.

    Raises:
        InputError: an unknown name or argument, or sizes that do not fit each other.
    """
    from .mae import MaskedAutoencoder

    known = inspect.signature(MaskedAutoencoder).parameters
    if unknown := sorted(options.keys() - known.keys()):
        remedy = f"use of {', '.join(known)}"
        raise InputError(f"has no argument {', '.join(unknown)}", f"model {name}", remedy)
    return MaskedAutoencoder(**model_options(name, **options))


def _known(name: str, table: Mapping[str, Mapping[str, int]], kind: str) -> Mapping[str, int]:
    if name not in table:
        near = ", ".join(get_close_matches(name, table, n=3)) or ", ".join(list(table)[:5])
        raise InputError(f"unknown {kind} {name!r}", "model.name", f"use e.g. {near}")
    return table[name]
