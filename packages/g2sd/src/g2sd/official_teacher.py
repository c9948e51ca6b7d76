"""The teacher of generic distillation out of a checkpoint: strictly, with the decoder that it needs (section 7)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vireo.backbones.mae import split_mae
from vireo.backbones.positions import require_fixed_table
from vireo.engine import plain
from vireo.engine.checkpoint import fit_state_dict
from vireo.engine.finished import read_config_of
from vireo.errors import InputError

from .identify import Identity, identify, sizes_of_name
from .kinds import COMMON_KEYS, OWN_KEYS, SCRIPTS
from .layouts import encoder_of, read_state
from .mae import init_weights
from .teacher import TARGET_BLOCK, MAETeacher

RELEASED = "https://dl.fbaipublicfiles.com/mae/pretrain/"  # where MAE's authors keep their files
_RELEASED_SIZES = ("vit_base", "vit_large", "vit_huge")


def load_teacher(
    weights: str | os.PathLike[str],
    target_block: int = TARGET_BLOCK,
    img_size: int | None = None,
    name: str | None = None,
    *,
    random_decoder: bool = False,
    **sizes: Any,
) -> MAETeacher:
    """The teacher of generic distillation: an encoder with the decoder blocks up to the target, strictly loaded.

    Sizes are read from the file. Numbers of heads, which shapes do not tell, are those of the run whose folder holds
    the file, else of the published size of the same width.

    Args:
        weights: a run of ``g2sd-pretrain`` or a file of a whole masked autoencoder, of any layout.
        target_block: the decoder block whose output is the target, counted from 1.
        img_size: of the student's images; None for that of the file. Fixed positions follow.
        name: a size, e.g. ``mae_vit_base_patch16``, that the file must have; decides on the heads.
        random_decoder: draw a new decoder from torch's global generator in place of the file's. This is the failure
            that an encoder-only file causes where it is loaded silently; for the ablation.
        **sizes: e.g. ``num_heads``, before those of the file.

    Raises:
        InputError: an unreadable file, an encoder without a decoder, too few decoder blocks, other sizes than those of
            ``name``, or entries that are missing or misshaped.
    """
    return teacher_in(read_state(weights), weights, target_block, img_size, name, random_decoder, **sizes)


def teacher_in(
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    target_block: int = TARGET_BLOCK,
    img_size: int | None = None,
    name: str | None = None,
    random_decoder: bool = False,
    **sizes: Any,
) -> MAETeacher:
    """The same of a state dict that was read from ``path`` by :func:`~g2sd.layouts.read_state`."""
    where = str(path)
    options = teacher_options(state, path, name, random_decoder, **sizes)
    require_target(options, target_block, where, random_decoder)
    positions = state["pos_embed"], options["img_size"] // options["patch_size"]
    teacher = MAETeacher(
        **{key: value for key, value in options.items() if key != "decoder_depth"}
        | {"target_block": target_block, "img_size": img_size or options["img_size"]}
    )
    _require_fixed(*positions, where)
    encoder, decoder = split_mae(state)
    fit_state_dict(
        teacher.encoder, {**encoder_of(encoder), "pos_embed": teacher.encoder.state_dict()["pos_embed"]}, where
    )
    if random_decoder:
        init_weights(teacher.decoder)
        return teacher
    if (table := decoder.get("pos_embed")) is not None:
        _require_fixed(table, positions[1], where)
    wanted = teacher.decoder.state_dict()
    kept = {key: value for key, value in decoder.items() if key in wanted}
    if "pos_embed" in kept:
        kept["pos_embed"] = wanted["pos_embed"]
    fit_state_dict(teacher.decoder, kept, where)
    return teacher


def teacher_options(
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    name: str | None = None,
    random_decoder: bool = False,
    **sizes: Any,
) -> dict[str, Any]:
    """Sizes of the masked autoencoder in a checkpoint, as arguments of :class:`~g2sd.MaskedAutoencoder`.

    Args:
        state: of :func:`read_state`.
        path: where it is from: the configuration of its run is looked for beside it.
        name, random_decoder, sizes: as of :func:`load_teacher`.

    Raises:
        InputError: no decoder, sizes that are not those of ``name``, or a number of heads that cannot be told.
    """
    where, known = str(path), sizes_of_name(name) if name else {}
    found = identify(state, where, {**_run_sizes(path), **known, **sizes})
    if not found.decoder and not random_decoder:
        raise no_decoder(found, where)
    fresh = {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16}
    read_sizes = {**found.encoder, **(found.decoder or {**fresh, **known})}
    read_sizes = {key: value for key, value in read_sizes.items() if key in {*found.encoder, *fresh}}
    differing = [key for key, value in known.items() if read_sizes.get(key) not in (None, value)]
    if differing:
        theirs = ", ".join(f"{key} {read_sizes[key]}" for key in differing)
        what = f"has {theirs}; {name} has {', '.join(f'{key} {known[key]}' for key in differing)}"
        raise InputError(what, where, "give the file of that size, or leave teacher.name=null")
    options = {**read_sizes, **sizes}
    if untold := [key for key in ("num_heads", "decoder_heads") if options.get(key) is None]:
        what = f"no file tells {' and '.join(untold)}, and no published size has this width and depth"
        raise InputError(what, where, "give the folder of its run, or load_teacher(..., num_heads=, decoder_heads=)")
    return options


def require_target(options: Mapping[str, Any], target_block: int, where: str, random_decoder: bool = False) -> None:
    """Check that a decoder has the block whose output is the target.

    Raises:
        InputError: it has not, or there is no such number.
    """
    if not 1 <= target_block <= options["decoder_depth"] and not (random_decoder and target_block >= 1):
        what = f"the teacher's decoder has {options['decoder_depth']} blocks, no block {target_block}"
        raise InputError(what, where, f"use target_block=1 to {options['decoder_depth']}")


def no_decoder(found: Identity, where: str) -> InputError:
    """The message about a file whose decoder is missing: which one to use."""
    name = f"mae_pretrain_{found.size if found.size in _RELEASED_SIZES else 'vit_base'}_full.pth"
    what = f"holds no decoder, but: {found.kind}; a student would learn from random numbers"
    return InputError(what, where, f"use the file of the whole masked autoencoder, {name} of {RELEASED}")


def _require_fixed(table: Tensor, side: int, where: str) -> None:
    require_fixed_table(table[:, 1:], "sincos_2d", (side, side), table.shape[2], where)


def _run_sizes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Sizes in the configuration of the run that a checkpoint is of; empty where there is none."""
    for folder in [Path(path), *Path(path).parents[:2]]:
        if (folder / "config.yaml").is_file():
            try:
                config, _ = read_config_of(folder, SCRIPTS, OWN_KEYS, COMMON_KEYS)
                model = plain(config.model)
                return {**sizes_of_name(str(model["name"])), **model}
            except (InputError, KeyError):
                return {}
    return {}
