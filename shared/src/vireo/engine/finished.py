"""What the folder of a run holds for those who come after it: configuration, classes and final weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf

from vireo.engine.logs import write_json
from vireo.errors import InputError

if TYPE_CHECKING:
    from torch import nn

CLASSES_FILE = "classes.json"
_LISTED = 5  # classes named in a message, at most
_Entry = TypeVar("_Entry")
_Network = TypeVar("_Network", bound="nn.Module")


def read_config(folder: str | os.PathLike[str], script: str, keys: Iterable[str]) -> DictConfig:
    """The configuration of a run.

    Args:
        folder: of the run.
        script: what writes such folders, e.g. ``fgc-train``, for the message.
        keys: that such a configuration has.

    Raises:
        InputError: no such run, or a file that is damaged or none of that script's.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError("holds no config.yaml", str(folder), f"give the folder of a run of {script} with run=...")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"cannot be read ({reason})", str(path), "restore the file") from error
    absent = [key for key in keys if not isinstance(content, dict) or key not in content]
    if absent:
        what = f"is no configuration of {script}: it has no {', '.join(absent)}"
        raise InputError(what, str(path), f"give the folder of a run of {script}")
    config = OmegaConf.create(content)
    assert isinstance(config, DictConfig)
    return config


def read_config_of(
    folder: str | os.PathLike[str], scripts: Mapping[str, str], own: Mapping[str, Iterable[str]], common: Iterable[str]
) -> tuple[DictConfig, str]:
    """The configuration of a run of one of several scripts, and which it is.

    Args:
        folder: of the run.
        scripts: what writes the runs of each kind, e.g. ``{"classifier": "itpn-finetune"}``.
        own: the keys by which a configuration of each kind is known, in the order in which to look.
        common: keys that all of them have.

    Returns:
        The configuration and its kind.

    Raises:
        InputError: no such run, or a file that is damaged or none of these scripts'.
    """
    names = " or ".join(scripts.values())
    config = read_config(folder, names, common)
    for kind, keys in own.items():
        if set(keys) <= config.keys():
            return config, kind
    path = str(Path(folder) / "config.yaml")
    raise InputError(f"is no configuration of {names}", path, f"give the folder of a run of {names}")


def require_same_sizes(own: Any, theirs: Any, names: Iterable[str], where: str) -> None:
    """Check that two ``model`` configurations agree.

    Args:
        own: of this training.
        theirs: of the run that it starts from.
        names: the keys that must be alike.
        where: that run.

    Raises:
        InputError: naming the values of both.
    """
    differing = [name for name in names if theirs.get(name) != own.get(name)]
    if differing:
        sizes = [", ".join(f"{name} {model.get(name)}" for name in differing) for model in (theirs, own)]
        overrides = " ".join(f"model.{name}={theirs.get(name)}" for name in differing)
        what = f"the run's model has {sizes[0]}; this one has {sizes[1]}"
        raise InputError(what, where, f"give the model of its pre-training: {overrides}")


def save_classes(folder: Path, classes: Iterable[Any]) -> None:
    """Write ``classes.json``: the class names, or what a paper knows of each, in the order of their labels."""
    write_json(folder / CLASSES_FILE, list(classes))


def class_name(entry: Any) -> str:
    """An entry of ``classes.json`` that is a name; TypeError if it is none."""
    if not isinstance(entry, str):
        raise TypeError(f"{entry!r} is no name")
    return entry


def read_classes(folder: str | os.PathLike[str], script: str, read: Callable[[Any], _Entry]) -> tuple[_Entry, ...]:
    """What ``read`` makes of each entry of ``classes.json``, by label.

    Args:
        folder: of the run.
        script: what writes such folders, for the message.
        read: :func:`class_name`, or another that raises TypeError, KeyError or ValueError for what is no entry.

    Raises:
        InputError: the file is missing, damaged or no such list.
    """
    path, remedy = Path(folder) / CLASSES_FILE, f"restore the file; {script} writes it"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("cannot be read", str(path), remedy) from error
    try:
        if not isinstance(entries, list):
            raise TypeError("it starts with no bracket")
        return tuple(read(entry) for entry in entries)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"is no list of classes ({error})", str(path), remedy) from error


def final_weights(folder: str | os.PathLike[str]) -> Path:
    """``model.safetensors`` of a run.

    Raises:
        InputError: it is not finished; a checkpoint to take instead is named.
    """
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        found = sorted((Path(folder) / "checkpoints").glob("*.pt"))
        remedy = f", or take a checkpoint with weights={found[0]}" if found else ""
        raise InputError("holds no model.safetensors: the run is not finished", str(folder), f"go on training{remedy}")
    return path


def initial_weights(init: str | os.PathLike[str]) -> Path:
    """The file to start another training from: the final weights of a run (its folder), or the file itself.

    Raises:
        InputError: a folder without final weights.
    """
    path = Path(init)
    if not path.is_dir():
        return path
    if not (path / "model.safetensors").is_file():
        what = "holds no model.safetensors: no run, or one that is not finished"
        raise InputError(what, str(path), "finish that run, or give the file of a checkpoint with init=...")
    return path / "model.safetensors"


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
    """Check that a data set numbers its classes as a model does.

    Raises:
        InputError: naming what differs.
    """
    given, wanted = list(classes), list(expected)
    if given == wanted:
        return
    extra, absent = [c for c in given if c not in wanted], [c for c in wanted if c not in given]
    parts = [
        f"{kind}: {', '.join(names[:_LISTED])}" + f" and {len(names) - _LISTED} more" * (len(names) > _LISTED)
        for kind, names in (("not among the model's", extra), ("absent", absent))
        if names
    ]
    if not parts:
        pairs = enumerate(zip(given, wanted))
        parts = [f"{i}: {a!r} instead of {b!r}" for i, (a, b) in pairs if a != b][:1] or ["some are named twice"]
    what = f"its classes are not the model's ({'; '.join(parts)})"
    raise InputError(what, where, "give data with the classes of the training")


def load_finished(
    folder: str | os.PathLike[str],
    script: str,
    own: str,
    build: Callable[[Any, int], _Network],
    weights: str | os.PathLike[str] | None = None,
    untrained: bool = False,
    complete: Callable[[DictConfig, Mapping[str, Any]], None] | None = None,
) -> tuple[_Network, DictConfig, tuple[str, ...]]:
    """Network, configuration and classes of a finished run; the network in evaluation mode, on the CPU.

    Args:
        folder: of the run.
        script: that it must be of, and ``own`` a key of its configuration that no other script has.
        build: makes the network of a configuration and a number of classes.
        weights: others of the same network; None for the run's.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.
        complete: writes into the configuration what it leaves open and the weights tell, before the network is built.

    Raises:
        InputError: no such run, no weights in it, or weights that do not fit.
    """
    from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
    from vireo.engine.rng import seed_all

    config = read_config(folder, script, (own, "model", "data"))
    classes = read_classes(folder, script, class_name)
    if untrained:
        seed_all(config.seed)
        return build(config, len(classes)).eval(), config, classes
    path = Path(weights) if weights is not None else final_weights(folder)
    state = state_dict_in(read(path), str(path))
    if complete is not None:
        complete(config, state)
    model = build(config, len(classes))
    fit_state_dict(model, state, str(path))
    return model.eval(), config, classes
