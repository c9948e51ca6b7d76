"""Checkpoints, ours and those of MAE, of G2SD's authors and of Hugging Face, as encoders and teachers (section 7).

What a network needs must be there: an encoder without its decoder is no teacher, and says so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.backbones import MaskedViT
from vireo.engine.checkpoint import LoadReport
from vireo.errors import InputError

from .identify import groups_of, identify
from .layouts import State, encoder_of, read_state, to_authors, to_ours
from .official_teacher import load_teacher as load_teacher  # all that reads checkpoints can be had here
from .official_teacher import no_decoder

Kind = Literal["encoder", "mae", "student"]
KINDS = ("encoder", "mae", "student")

_NORMS = ("norm.", "fc_norm.")
_LEFT_OUT = ("decoder", "mask_token", "encoderfeature_pred.", "head.", "head_dist.", "dist_token", "cls_token", *_NORMS)
_READOUT = ("head.", "head_dist.", "dist_token")
_IDLE = ("decoder_norm.", "decoder_pred.")  # of a student: the authors store them, nothing uses them


class EncoderReport(NamedTuple):
    """What became of a checkpoint that an encoder started from; everything in it is as expected.

    Attributes:
        file: that it was.
        loaded: entries that were taken.
        fresh: entries of the network that keep their start.
        left_out: entries of the file that the network has no use for.
        resized: old and new grid of positions that were interpolated; None if they were not.
    """

    file: str
    loaded: list[str]
    fresh: list[str]
    left_out: list[str]
    resized: tuple[tuple[int, int], tuple[int, int]] | None = None

    def __str__(self) -> str:
        lines = [f"{self.file}: {len(self.loaded)} entries of the encoder loaded"]
        if self.resized is not None:
            (old, new) = (f"{rows}x{columns}" for rows, columns in self.resized)
            lines.append(f"  positions interpolated from {old} to {new} patches")
        lines.append(f"  fresh, as expected: {groups_of(self.fresh)}")
        lines.append(f"  left out, as expected: {groups_of(self.left_out)}")
        return "\n".join(lines)


def read_encoder(path: str | os.PathLike[str]) -> State:
    """The encoder of a checkpoint of any layout, under timm's names.

    Args:
        path: a run's folder or a file, ours or the authors': of a masked autoencoder, its encoder alone, a student of
            generic distillation or a classifier, with or without distillation token.

    Returns:
        Class token, positions, patch embedding, blocks and norm (``norm`` or ``fc_norm``), and nothing else.

    Raises:
        InputError: see :func:`read_state`.
    """
    return encoder_of(read_state(path))


def load_encoder(model: nn.Module, path: str | os.PathLike[str], fresh: Sequence[str] = ()) -> EncoderReport:
    """Start an encoder, or what has one under timm's names, from a checkpoint of any layout.

    Patch embedding, positions, class token and blocks must fit. Learned positions are interpolated to another grid,
    fixed ones must be the model's own. What reads the tokens out may stay at its start.

    Args:
        model: receives the weights in place; keys as of :class:`~vireo.backbones.MaskedViT`.
        path: a run's folder or a file; see :func:`read_encoder`.
        fresh: parts of names of further entries of the model that may stay at their start, e.g. ``("rel_pos_",)``.

    Raises:
        InputError: an unreadable file, or an entry that is missing, foreign or of another shape.
    """
    where, own = str(path), model.state_dict()
    state = read_state(path)
    given, grids = _placed(model, state, {key: value for key, value in state.items() if key in own})
    given = {key: value for key, value in given.items() if not key.startswith(_READOUT)}
    missing = [key for key in own if key not in given]
    expected = [key for key in missing if key.startswith(_READOUT) or any(part in key for part in fresh)]
    if any(key.startswith(_NORMS) for key in state):  # the norm of another read-out than the model's
        expected += [key for key in missing if key.startswith(_NORMS)]
    left_out = [key for key in state if key not in given]
    faults = LoadReport(
        missing=[key for key in missing if key not in expected],
        unexpected=[key for key in left_out if not key.startswith(_LEFT_OUT)],
        misshaped=_misshaped(own, given),
    )
    if faults:
        raise InputError(f"the checkpoint does not fit the encoder; {faults}", where, _remedy(state, where))
    model.load_state_dict(given, strict=False)
    return EncoderReport(where, list(given), expected, left_out, grids)


def resample_positions(table: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """A position table for another grid of patches, bicubic; rows of prefix tokens are kept.

    Args:
        table: ``(1, prefix + R * R, D)`` of a square grid.
        grid: rows and columns wanted.
        prefix: class tokens in front.

    Returns:
        float32 ``(1, prefix + rows * columns, D)``.

    Raises:
        InputError: a table of no square grid.
    """
    table = table.float()
    front, patches = table[:, :prefix], table[:, prefix:]
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        what = f"{patches.shape[1]} stored positions are no square grid"
        raise InputError(what, "pos_embed", "use the image size of its training")
    if (side, side) == tuple(grid):
        return table
    image = patches.transpose(1, 2).unflatten(2, (side, side))
    resized = F.interpolate(image, size=tuple(grid), mode="bicubic", align_corners=False)
    return torch.cat((front, resized.flatten(2).transpose(1, 2)), 1)


def to_official(model: nn.Module) -> State:
    """The state of an encoder, a masked autoencoder or a student under the authors' names.

    A masked autoencoder's and an encoder's load strictly into their networks. A student's lacks what has no part in
    training there: norm and pixel head of the decoder, and, without ``encoder_weight``, the head for the encoder.
    """
    return to_authors(model.state_dict(), type(model).__name__)


def convert_checkpoint(src: str | os.PathLike[str], kind: Kind) -> State:
    """The state dict of one of our networks from a checkpoint of any layout.

    Args:
        src: a run's folder or a file.
        kind: ``encoder`` under timm's names, ``mae`` for :class:`~g2sd.MaskedAutoencoder`, ``student`` for
            :class:`~g2sd.GenericStudent`, which needs ``encoder_weight`` above 0 for the head of the encoder.

    Raises:
        InputError: an unreadable file, an unknown kind, or what is wanted is not in it.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}", "kind", f"use one of {', '.join(KINDS)}")
    if kind == "encoder":
        return read_encoder(src)
    where, state = str(src), read_state(src)
    found = identify(state, where)
    if kind == "mae":
        if not {"decoder_pred.weight", "mask_token"} <= state.keys():
            raise no_decoder(found, where)
        return to_ours({key: value for key, value in state.items() if "feature_pred." not in key})
    if not any("feature_pred." in key for key in state):
        raise InputError(f"holds no student, but: {found.kind}", where, "give a checkpoint of generic distillation")
    return to_ours({key: value for key, value in state.items() if not key.startswith(_IDLE)})


def _placed(model: nn.Module, state: State, given: State) -> tuple[State, Any]:
    """``given`` with positions for the model's grid, and old and new grid where they were interpolated."""
    table, own = given.get("pos_embed"), cast("Tensor | None", getattr(model, "pos_embed", None))
    if table is None or own is None or table.shape[2] != own.shape[2]:
        return given, None
    if isinstance(model, MaskedViT) and model.positions != "learned":
        return {**given, "pos_embed": model.resized(state)["pos_embed"]}, None
    side = math.isqrt(own.shape[1])
    grid: tuple[int, int] = tuple(getattr(model, "grid_size", (side, side)))
    table = table[:, -(table.shape[1] - 1 + own.shape[1] - grid[0] * grid[1]) :]  # without the row of no class token
    prefix, old = own.shape[1] - grid[0] * grid[1], math.isqrt(table.shape[1])
    if (old, old) == grid:
        return {**given, "pos_embed": table}, None
    return {**given, "pos_embed": resample_positions(table, grid, prefix)}, ((old, old), grid)


def _misshaped(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    pairs = [(key, tuple(value.shape), tuple(own[key].shape)) for key, value in given.items()]
    return [f"{key} (file {theirs}, model {ours})" for key, theirs, ours in pairs if theirs != ours]


def _remedy(state: Mapping[str, Tensor], where: str) -> str:
    encoder = identify(state, where).encoder
    sizes = ", ".join(f"{key} {encoder[key]}" for key in ("patch_size", "embed_dim", "depth"))
    return f"build the model for {sizes}, or give another file"
