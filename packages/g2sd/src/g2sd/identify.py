"""What a checkpoint holds: which kind of model, and its sizes, read from names and shapes alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vireo.errors import InputError

from .sizes import ENCODERS, MODELS, model_options

_GROUPS = (  # what entries belong to, by how their names begin; the first that fits
    ("decoder", ("decoder_", "mask_token")),
    ("heads of generic distillation", ("decoderfeature_pred.", "encoderfeature_pred.")),
    ("distillation token and its head", ("dist_token", "head_dist.")),
    ("classifier", ("head.",)),
    ("norm of the average", ("fc_norm.",)),
    ("final norm", ("norm.",)),
    ("class token", ("cls_token",)),
)


class Identity(NamedTuple):
    """What a checkpoint is of.

    Attributes:
        kind: in words.
        size: name of :data:`~g2sd.sizes.ENCODERS`; None for sizes of one's own.
        encoder: ``img_size``, ``patch_size``, ``embed_dim``, ``depth``, ``num_heads`` (None: not to be told).
        decoder: ``decoder_dim``, ``decoder_depth``, ``decoder_heads`` (None: not to be told); empty if there is none.
        num_classes: of its classifier; 0 for none.
    """

    kind: str
    size: str | None
    encoder: dict[str, Any]
    decoder: dict[str, Any]
    num_classes: int


def identify(state: Mapping[str, Tensor], where: str, sizes: Mapping[str, Any] | None = None) -> Identity:
    """Identify a state dict under the authors' names.

    Args:
        state: of :func:`~g2sd.layouts.to_authors`.
        where: its name in messages.
        sizes: what is known of it from elsewhere, such as the configuration of its run: tells the numbers of heads,
            which no shape does.

    Raises:
        InputError: no position table, or one of no square grid.
    """
    sizes = sizes or {}
    kernel = state["patch_embed.proj.weight"]
    dim, patch = len(kernel), kernel.shape[2]
    depth = _depth(state, "blocks.")
    size = next(
        (name for name, of in ENCODERS.items() if (of["embed_dim"], of["depth"]) == (dim, depth)),
        None,
    )
    heads = sizes.get("num_heads") or (ENCODERS[size]["num_heads"] if size else None)
    side = _grid_side(state, where)
    encoder = {"img_size": side * patch, "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads}
    head = state.get("head.weight")
    return Identity(_kind(state), size, encoder, _decoder(state, sizes), 0 if head is None else len(head))


def sizes_of_name(name: str) -> dict[str, Any]:
    """The sizes behind a name of a model or an encoder.

    Raises:
        InputError: an unknown name.
    """
    return {"patch_size": 16, **(ENCODERS[name] if name in ENCODERS else model_options(name))}


def groups_of(keys: Iterable[str]) -> str:
    """Entries by what they belong to, with their numbers: ``decoder (100), classifier (2)``."""
    counted = Counter(
        next((group for group, starts in _GROUPS if key.startswith(starts)), key.partition(".")[0]) for key in keys
    )
    return ", ".join(f"{group} ({count})" for group, count in counted.items()) or "nothing"


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = [int(key.removeprefix(prefix).partition(".")[0]) for key in state if key.startswith(prefix)]
    return 1 + max(numbers, default=-1)


def _grid_side(state: Mapping[str, Tensor], where: str) -> int:
    table = state.get("pos_embed")
    if table is None:
        raise InputError("has no pos_embed: the file is not complete", where, "copy or download it again")
    count = table.shape[1] - int("cls_token" in state)
    side = math.isqrt(count)
    if side * side == count:
        return side
    if "dist_token" in state and math.isqrt(count - 1) ** 2 == count - 1:
        what = "its distillation token has a position: the layout of DeiT, where it comes second"
        raise InputError(what, where, "give a model whose distillation token comes last, as G2SD's does")
    raise InputError(f"{count} stored positions are no square grid", where, "give a model of square images")


def _decoder(state: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> dict[str, Any]:
    embed = state.get("decoder_embed.weight")
    if embed is None:
        return {}
    known = {of["decoder_dim"]: of["decoder_heads"] for of in MODELS.values()}
    return {
        "decoder_dim": len(embed),
        "decoder_depth": _depth(state, "decoder_blocks."),
        "decoder_heads": sizes.get("decoder_heads") or known.get(len(embed)),
    }


def _kind(state: Mapping[str, Tensor]) -> str:
    if any(key.startswith(("decoderfeature_pred.", "encoderfeature_pred.")) for key in state):
        return "student of generic distillation"
    if "dist_token" in state:
        return "classifier with a distillation token"
    if "head.weight" in state:
        return "classifier"
    if any(key.startswith("decoder_") for key in state):
        return "masked autoencoder, encoder and decoder"
    return "encoder alone"
