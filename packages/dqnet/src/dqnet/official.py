"""The authors' checkpoints, both ways (section 7 of the notes).

Their trainer writes ``state_final.pth``, a flat state dict, and ``checkpoint_final.pth``, where it stands under
``net_state`` beside that of the optimizer. Both also hold parameters that take no part; see
:mod:`dqnet.official_extras`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vireo.engine.checkpoint import LoadReport, fit_state_dict, read, state_dict_in
from vireo.engine.finished import initial_weights
from vireo.errors import InputError

from .layouts import UNUSED, from_official_names, to_official_names
from .model import DQnet
from .sizes import VITS
from .vit import resize_positions

State = dict[str, Tensor]
Source = str | os.PathLike[str] | Mapping[str, Any]

_CLASSES = 1000  # of the classifier that the authors' ResNet keeps


def read_state(source: Source, *, ema: bool = False) -> tuple[State, str]:
    """The state dict of a run's folder, of a file, or of what was read from one; and its name in messages.

    Args:
        source: bare, as by the authors' trainer, or under ``state_dict`` or ``model``.
        ema: of the authors' ``checkpoint_final.pth``, take the averaged weights, ``ema_net_state``.

    Raises:
        InputError: no such file, one that cannot be read or would execute code, or no state dict in it.
    """
    content: Any = source
    where = "state"
    if not isinstance(source, Mapping):
        where = str(initial_weights(source))
        content = read(where)
    key = "ema_net_state" if ema else "net_state"
    if isinstance(content, Mapping) and (ema or key in content):
        content = content.get(key)
        if not content:
            raise InputError(f"holds no {key}", where, "leave out ema: the authors' trainer keeps no average")
    return state_dict_in(content, where), where


def is_official(state: Mapping[str, Any]) -> bool:
    """Whether a state dict has the authors' names."""
    return any(key.startswith(("higher_encoder.", "space_encoder.", "segmentation_head.")) for key in state)


def from_official(source: Source, *, ema: bool = False, **options: Any) -> DQnet:
    """The network of the authors' checkpoint, in evaluation mode.

    Image size, window, widths and the size of the transformer are those of the file.

    Args:
        source: ``state_final.pth``, ``checkpoint_final.pth``, or the state dict itself.
        ema: see :func:`read_state`.
        **options: of :class:`~dqnet.DQnet`, which come before those of the file; with another ``image_size`` the
            positions are resized.

    Raises:
        InputError: an unreadable file, one of something else, or one with an entry missing, unknown or misshaped.
    """
    state, where = read_state(source, ema=ema)
    if not is_official(state):
        raise InputError("holds no DQnet under the authors' names", where, "give state_final.pth of their trainer")
    sizes = _sizes(state, where)
    if "vit" not in options:
        sizes["vit"] = _vit_name(state, where)
    model = DQnet(**{**sizes, **options})
    fit(model, state, where)
    return model.eval()


def fit(model: DQnet, state: Mapping[str, Tensor], where: str) -> LoadReport:
    """Load a whole network strictly, of our names or the authors', positions resized to the model's grid.

    Returns:
        Nothing missing or misshaped; ``unexpected`` are the authors' entries that take no part.

    Raises:
        InputError: any other entry that is missing, unknown or misshaped.
    """
    own = from_official_names(state) if is_official(state) else dict(state)
    if model.vit is not None and "vit.pos_embed" in own:
        own["vit.pos_embed"] = placed(own["vit.pos_embed"], model.vit.grid_size, where)
    fit_state_dict(model, own, where)
    return LoadReport([], [key for key in state if UNUSED.match(key)], [])


def placed(table: Tensor, grid: tuple[int, int], where: str) -> Tensor:
    """A position table for a grid, float32 where it has to be resized.

    Raises:
        InputError: a table that is no square grid behind a class token's row.
    """
    if table.ndim != 3:
        raise InputError(f"pos_embed has shape {tuple(table.shape)}", where, "copy or download it again")
    if table.shape[1] == 1 + grid[0] * grid[1] and grid[0] == grid[1]:
        return table
    try:
        return resize_positions(table.float(), grid)
    except InputError as error:
        raise InputError(error.what, where, error.remedy) from error


def unused_entries(source: Source, *, ema: bool = False) -> State:
    """The entries of the authors' checkpoint that take no part, for an exact round trip by :func:`to_official`.

    Raises:
        InputError: see :func:`read_state`.
    """
    state, _ = read_state(source, ema=ema)
    return {key: value for key, value in state.items() if UNUSED.match(key)}


def to_official(model: DQnet, unused: Mapping[str, Tensor] | None = None) -> State:
    """The state under the authors' names, which loads strictly into their network.

    Args:
        model: with queries; the authors have no controls, and always multiply the answers.
        unused: entries that take no part, of :func:`unused_entries`; None: zeros of their shapes.

    Raises:
        InputError: an arm that the authors' code does not have.
    """
    if model.arm != "gate":
        raise InputError(f"arm {model.arm!r}", "to_official", "the authors' code has arm gate only")
    state = to_official_names(model.state_dict())
    return {**state, **(_zeros(state) if unused is None else unused)}


def _zeros(state: Mapping[str, Tensor]) -> State:
    """What takes no part, all zero: classifier, maps down from the query map, and the head without a loss."""
    channels = [len(state[f"space_encoder.pos_norm{n}.weight"]) for n in range(4)]
    dim = len(state["space_encoder.norm0.weight"])
    out = state["segmentation_head.fuse.c3_down.weight"].shape[1]
    shapes: dict[str, tuple[int, ...]] = {"space_encoder.fc": (_CLASSES, out)}
    for n, width in enumerate(channels):
        shapes[f"space_encoder.down{n}"] = (width, dim, 1, 1)
        shapes[f"aux_head.head.{n}"] = (1, width, 3, 3)
    weights = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    return {**weights, **{f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}}


def _sizes(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Arguments of :class:`DQnet` for a state dict under the authors' names, but for the transformer's size.

    Raises:
        InputError: an entry that tells them is missing.
    """
    names = ["higher_encoder.pos_embed", "higher_encoder.patch_embed.proj.weight"]
    names += ["space_encoder.cross0.rel_pos_h", "segmentation_head.head.weight"]
    if absent := [name for name in names if name not in state]:
        raise InputError(f"the checkpoint is not complete: no {', '.join(absent)}", where, "copy it again")
    table, kernel, relative, last = (state[name] for name in names)
    side = math.isqrt(table.shape[1] - 1)
    return {
        "image_size": side * kernel.shape[2],
        "window": (len(relative) + 1) // 2,
        "heads": len(kernel) // relative.shape[1],
        "head_width": last.shape[1],
    }


def _vit_name(state: Mapping[str, Tensor], where: str) -> str:
    """The size of the transformer.

    Raises:
        InputError: it has no name.
    """
    kernel = state["higher_encoder.patch_embed.proj.weight"]
    blocks = {key.split(".")[2] for key in state if key.startswith("higher_encoder.blocks.")}
    of = {"embed_dim": len(kernel), "depth": len(blocks), "patch_size": kernel.shape[2]}
    for name, size in VITS.items():
        if of.items() <= size.items():
            return name
    words = ", ".join(f"{key} {value}" for key, value in of.items())
    raise InputError(f"a transformer of no known size ({words})", where, "give its size with vit={...}")
