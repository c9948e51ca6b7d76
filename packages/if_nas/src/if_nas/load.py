"""A trained network from the folder of its run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from vireo.engine.checkpoint import load_weights, read
from vireo.engine.finished import class_name, final_weights, read_classes, read_config
from vireo.engine.logs import write_json
from vireo.errors import InputError

from .build import Architecture, build_network
from .derived import DerivedNetwork
from .micro_genotype import genotype_from_dict
from .official import from_official

NETWORK_FILE = "network.json"  # in the folder of a training


@dataclass(frozen=True)
class LoadedRun:
    """What a run of ``if-nas-train`` holds.

    Attributes:
        network: in evaluation mode, on the CPU.
        architecture: its genotype.
        width: C, its channels in the first stage.
        config: the run's configuration.
        classes: class names by label.
    """

    network: nn.Module
    architecture: Architecture
    width: int
    config: DictConfig
    classes: tuple[str, ...]


def require_no_search(folder: Path) -> None:
    """Check that a training does not write into the folder of a search.

    Raises:
        InputError: there is one.
    """
    path = folder / "config.yaml"
    if path.is_file():
        known = read_config(folder, "if-nas-train", ()).keys()
        if "space" in known and "genotype" not in known:
            raise InputError("holds a search, which a training would overwrite", str(folder), "set another output_dir")


def write_architecture(folder: Path, architecture: Architecture, facts: Mapping[str, int]) -> None:
    """Write ``network.json`` of a run: the architecture and what :func:`~if_nas.build.describe` says of the network."""
    write_json(folder / NETWORK_FILE, {**architecture.to_dict(), **facts})


def load_run(folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> LoadedRun:
    """Build the network of a run and load its final weights, or others.

    Args:
        folder: written by ``if-nas-train``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt``, or a
            checkpoint in the authors' layout.

    Raises:
        InputError: no such run, no weights in it, or weights that cannot be read, are refused or do not fit.
    """
    config = read_config(folder, "if-nas-train", ("model", "data", "genotype"))
    classes = read_classes(folder, "if-nas-train", class_name)
    architecture, width = read_architecture(Path(folder))
    path = final_weights(folder) if weights is None else Path(weights)
    network = build_network(config.model, architecture, len(classes), width)
    if isinstance(network, DerivedNetwork):
        from_official(network, read(path), str(path))
    else:
        load_weights(network, path)
    return LoadedRun(network.eval(), architecture, width, config, classes)


def read_architecture(folder: Path) -> tuple[Architecture, int]:
    """Genotype and width of a run's network.

    Raises:
        InputError: ``network.json`` is missing or damaged.
    """
    path, remedy = folder / NETWORK_FILE, "restore the file; if-nas-train writes it"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("cannot be read", str(path), remedy) from error
    width = content.get("width") if isinstance(content, Mapping) else None
    if type(width) is not int or width < 1:
        raise InputError("names no width", str(path), remedy)
    return genotype_from_dict(content, str(path)), width
