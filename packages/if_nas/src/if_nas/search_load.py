"""What a search holds, from the folder of its run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vireo.engine.finished import load_finished, read_config
from vireo.engine.logs import flatten, plain
from vireo.errors import InputError

from .schedule import Schedule
from .search_build import Supernet, build_node_schedule, build_search_network

SCRIPT = "if-nas-search"
FIXED = ("schedule", "space", "model")  # groups of settings that no search may change on the way


@dataclass(frozen=True)
class LoadedSearch:
    """A finished search.

    Attributes:
        network: the super-network with its edge and operator weights, in evaluation mode, on the CPU.
        config: the run's configuration.
        classes: class names by label.
        schedule: which nodes were active, by turns.
    """

    network: Supernet
    config: DictConfig
    classes: tuple[str, ...]
    schedule: Schedule


def load_search(folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> LoadedSearch:
    """Build the super-network of a search and load its final weights, or others.

    Args:
        folder: written by ``if-nas-search``.
        weights: another ``.safetensors`` or torch file of the same network, such as a checkpoint of a search that is
            not finished.

    Raises:
        InputError: no such search, no weights in it, or weights that cannot be read, are refused or do not fit.
    """
    network, config, classes = load_finished(folder, SCRIPT, "space", build_search_network, weights)
    return LoadedSearch(network, config, classes, build_node_schedule(config.schedule, network, config.seed))


def require_own_folder(config: Any) -> None:
    """Check that ``output_dir`` is free for a search, or holds one that this configuration goes on with.

    Args:
        config: of the search to begin. With ``resume=never`` any folder will do.

    Raises:
        InputError: it holds a training, or a search in another space, of another network or by another schedule.
    """
    folder, remedy = Path(config.output_dir), "choose another output_dir, or set resume=never to discard what it holds"
    if config.resume == "never" or not (folder / "config.yaml").exists():
        return
    there = read_config(folder, SCRIPT, ())
    if "genotype" in there:
        raise InputError("holds a run of if-nas-train", str(folder), remedy)
    old, new = (flatten({name: plain(part[name]) for name in FIXED if name in part}) for part in (there, config))
    changed = [f"{key} is {old[key]} there, {new.get(key)} here" for key in old if old[key] != new.get(key)]
    if changed and ((folder / "metrics.json").exists() or any((folder / "checkpoints").glob("*.pt"))):
        raise InputError(f"holds another search: {'; '.join(changed)}", str(folder), remedy)
