"""A trained network from the folder of its run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.finished import final_weights, read_classes, read_config
from vireo.errors import InputError

from .build import build_localizer
from .localizer import Localizer

SCRIPT = "p2p-train"
KEYS = ("model", "data", "refine", "eval", "rounds")  # that every configuration of a run has


@dataclass(frozen=True)
class LoadedRun:
    """What a finished run, or a finished round of it, holds.

    Attributes:
        model: in evaluation mode, on the CPU.
        config: the run's configuration.
        classes: class names by index.
        category_ids: COCO category id by class index.
        round: the network's; None where its weights came from elsewhere.
    """

    model: Localizer
    config: DictConfig
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    round: int | None


def load_run(
    folder: str | os.PathLike[str], round: int | None = None, weights: str | os.PathLike[str] | None = None
) -> LoadedRun:
    """Build the network of a run and load the weights of its last round, of another, or of a file.

    Args:
        folder: written by ``p2p-train``.
        round: 0 for the network that was trained on the first labels, and so on; None for the last.
        weights: another ``.safetensors`` or torch file of the same network, such as ``round_1/checkpoints/best.pt``.

    Raises:
        InputError: no such run or round, no weights in it, both ``round`` and ``weights``, or weights that do not fit.
    """
    if round is not None and weights is not None:
        raise InputError("a round, and the weights of a file", f"weights={weights}", "leave out one of the two")
    config = config_of(folder)
    categories = dict(read_classes(folder, SCRIPT, lambda entry: (int(entry["id"]), str(entry["name"]))))
    if weights is None:
        number = config.rounds if round is None else round
        source: str | os.PathLike[str] = folder if round is None else round_folder(folder, round)
    else:
        number, source = None, weights
    model = load_weights(build_localizer(config.model, len(categories), fresh=False), source)
    return LoadedRun(model.eval(), config, tuple(categories.values()), tuple(categories), number)


def load_weights(model: Localizer, source: str | os.PathLike[str]) -> Localizer:
    """``model`` with other weights.

    Args:
        model: changed in place.
        source: a file, or the folder of a run or round with its final weights.

    Raises:
        InputError: no weights there, or weights that do not fit.
    """
    path = final_weights(source) if Path(source).is_dir() else Path(source)
    fit_state_dict(model, state_dict_in(read(path), str(path)), str(path))
    return model


def round_folder(folder: str | os.PathLike[str], number: int) -> Path:
    """Where a round of a run lies.

    Raises:
        InputError: there is none; those that are there are named.
    """
    path = Path(folder) / f"round_{number}"
    if not path.is_dir():
        found = ", ".join(sorted(p.name.removeprefix("round_") for p in Path(folder).glob("round_*"))) or "none"
        raise InputError(f"has no round {number}", str(folder), f"choose one of the rounds that it has: {found}")
    return path


def config_of(folder: str | os.PathLike[str]) -> DictConfig:
    """The configuration of a run.

    Raises:
        InputError: no such run, or a configuration that is damaged or of something else.
    """
    return read_config(folder, SCRIPT, KEYS)
