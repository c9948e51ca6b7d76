"""A trained network from the folder of its run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vireo.engine.logs import write_json
from vireo.errors import InputError

from .build import build_network, load_initial_weights

CLASSES_FILE = "classes.json"


@dataclass(frozen=True)
class LoadedRun:
    """What a finished run holds.

    Attributes:
        network: in evaluation mode, on the CPU, without memory banks.
        config: the run's configuration.
        classes: class names by label.
    """

    network: nn.Module
    config: DictConfig
    classes: tuple[str, ...]


def save_classes(folder: Path, classes: Iterable[str]) -> None:
    """Write ``classes.json``: the class names in the order of their labels."""
    write_json(folder / CLASSES_FILE, list(classes))


def load_run(folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> LoadedRun:
    """Build the network of a run and load its final weights, or others.

    Args:
        folder: written by ``fgc-train``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt`` of a run
            that is not finished, or a checkpoint in the authors' layout.

    Raises:
        InputError: no such run, no weights in it, or weights that cannot be read, are refused or do not fit.
    """
    folder = Path(folder)
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise InputError("holds no config.yaml", str(folder), "give the folder of a run of fgc-train with run=...")
    config = _read_config(config_file)
    classes = _read_classes(folder / CLASSES_FILE)
    if weights is None and not (folder / "model.safetensors").is_file():
        found = sorted((folder / "checkpoints").glob("*.pt"))
        remedy = f", or take a checkpoint with weights={found[0]}" if found else ""
        raise InputError("holds no model.safetensors: the run is not finished", str(folder), f"go on training{remedy}")
    # the weights come from the file: nothing is to be downloaded first
    network = build_network(OmegaConf.merge(config.model, {"pretrained": False}), len(classes))
    load_initial_weights(network, str(weights if weights is not None else folder / "model.safetensors"))
    return LoadedRun(network.eval(), config, classes)


def _read_config(path: Path) -> DictConfig:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot be read ({str(error).splitlines()[0]})", str(path), "restore the file") from error
    if not isinstance(content, dict) or not {"model", "data", "image_size"} <= set(content):
        raise InputError("is no configuration of fgc-train", str(path), "give the folder of a run of fgc-train")
    return OmegaConf.create(content)


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        classes = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError("cannot be read", str(path), "restore the file; fgc-train writes it") from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError("is no list of class names", str(path), "restore the file; fgc-train writes it")
    return tuple(classes)


def changed_data(data: DictConfig, changes: DictConfig) -> DictConfig:
    """A run's data configuration with those of ``changes`` that are not null.

    Raises:
        InputError: a change that this kind of data does not know.
    """
    given = {str(key): value for key, value in changes.items() if value is not None}
    unknown = [key for key in given if key not in data]
    if unknown:
        names = ", ".join(f"data.{key}" for key in unknown)
        known = f"it has {', '.join(str(key) for key in data)}"
        raise InputError(f"the run's data (data={data.format}) has no such setting", names, known)
    merged = OmegaConf.merge(data, given)
    assert isinstance(merged, DictConfig)
    return merged


def require_classes(classes: Iterable[str], expected: Iterable[str], where: str) -> None:
    """Check that a data set numbers its classes as a network does.

    Raises:
        InputError: naming what differs.
    """
    given, wanted = list(classes), list(expected)
    if given == wanted:
        return
    differing = [f"{i}: {a!r} instead of {b!r}" for i, (a, b) in enumerate(zip(given, wanted)) if a != b]
    what = f"{len(given)} classes, the network has {len(wanted)}" if len(given) != len(wanted) else differing[0]
    raise InputError(f"its classes are not the network's ({what})", where, "give data with the classes of the training")
