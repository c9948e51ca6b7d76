"""What a search holds, from the folder of its run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from omegaconf import DictConfig

from vireo.engine.finished import load_finished

from .schedule import Schedule
from .search_build import Supernet, build_node_schedule, build_search_network

SCRIPT = "if-nas-search"


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
