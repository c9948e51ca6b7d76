"""A trained detector from the folder of its run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from vireo.data import DetectionDataset
from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.logs import write_json
from vireo.errors import InputError

from .build import build_model
from .model import SSDDet
from .official import from_official

CLASSES_FILE = "classes.json"
_OFFICIAL_PREFIXES = ("roi_head.", "rpn_head.")


@dataclass(frozen=True)
class LoadedRun:
    """What a finished run holds.

    Attributes:
        model: the detector in evaluation mode, on the CPU.
        config: the run's configuration.
        classes: class names by index.
        category_ids: COCO category id by class index.
    """

    model: SSDDet
    config: DictConfig
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]


def save_classes(folder: Path, dataset: DetectionDataset) -> None:
    """Write ``classes.json``: the training set's categories as COCO writes them, in the order of the class indices."""
    categories = [{"id": number, "name": name} for number, name in zip(dataset.category_ids, dataset.classes)]
    write_json(folder / CLASSES_FILE, categories)


def load_run(folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> LoadedRun:
    """Build the detector of a run and load its final weights, or others.

    Args:
        folder: written by ``ssd-det-train``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt`` of a run
            that is not finished, or a checkpoint in the authors' layout, which is recognised by its keys.

    Raises:
        InputError: no such run, no weights in it, or weights that cannot be read, are refused or do not fit.
    """
    folder = Path(folder)
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise InputError("holds no config.yaml", str(folder), "give the folder of a run of ssd-det-train with run=...")
    config = _read_config(config_file)
    categories = _read_categories(folder / CLASSES_FILE)
    if weights is None and not (folder / "model.safetensors").is_file():
        found = sorted((folder / "checkpoints").glob("*.pt"))
        remedy = f", or take a checkpoint with weights={found[0]}" if found else ""
        raise InputError("holds no model.safetensors: the run is not finished", str(folder), f"go on training{remedy}")
    # the weights come from the file: nothing is to be downloaded first
    plain_start = OmegaConf.merge(config.model, {"pretrained": False, "backbone_weights": None})
    model = build_model(plain_start, config.refiner, len(categories))
    load_detector(model, weights if weights is not None else folder / "model.safetensors")
    return LoadedRun(model.eval(), config, tuple(categories.values()), tuple(categories))


def load_detector(model: SSDDet, path: str | os.PathLike[str]) -> None:
    """Load weights in our or in the authors' layout into ``model``, strictly.

    Raises:
        InputError: unreadable or refused file, or keys that do not fit (listed by kind).
    """
    state = state_dict_in(read(path), str(path))
    if not any(key.startswith(_OFFICIAL_PREFIXES) for key in state):
        fit_state_dict(model, state, str(path))
        return
    try:
        from_official(model, state)
    except InputError as error:
        raise InputError(f"{error.what}; the layout is the authors'", str(path), error.remedy) from error


def changed_data(data: DictConfig, changes: DictConfig) -> DictConfig:
    """A run's data configuration with those of ``changes`` that are not null.

    Raises:
        InputError: a change that this kind of data does not know.
    """
    given = {str(key): value for key, value in changes.items() if value is not None}
    unknown = [key for key in given if key not in data]
    if unknown:
        raise InputError(
            f"the run's data (data={data.format}) has no such setting",
            ", ".join(f"data.{key}" for key in unknown),
            f"it has {', '.join(str(key) for key in data)}",
        )
    merged = OmegaConf.merge(data, given)
    assert isinstance(merged, DictConfig)
    return merged


def require_classes(classes: Iterable[str], expected: Iterable[str], where: str) -> None:
    """Check that a data set numbers its classes as a model does.

    Raises:
        InputError: naming both lists' differences.
    """
    given, wanted = list(classes), list(expected)
    if given == wanted:
        return
    extra, absent = [c for c in given if c not in wanted], [c for c in wanted if c not in given]
    parts = [
        ("not among the model's: " + ", ".join(extra)) * bool(extra),
        ("absent: " + ", ".join(absent)) * bool(absent),
    ]
    detail = "; ".join(part for part in parts if part) or f"their order is {given}, the model's {wanted}"
    raise InputError(
        f"the categories differ from the model's ({detail})",
        where,
        "use annotations with the categories it was trained on",
    )


def _read_config(path: Path) -> DictConfig:
    try:
        config = OmegaConf.create(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"cannot be read ({reason})", str(path), "restore the file") from error
    absent = [key for key in ("model", "refiner", "data") if not isinstance(config, DictConfig) or key not in config]
    if absent or not isinstance(config, DictConfig):
        raise InputError(f"has no {', '.join(absent)}", str(path), "give the folder of a run of ssd-det-train")
    defaults = resources.files("ssd_det.conf").joinpath("data", f"{config.data.get('format')}.yaml")
    if defaults.is_file():  # settings younger than the run
        config.data = OmegaConf.merge(yaml.safe_load(defaults.read_text(encoding="utf-8")), config.data)
    return config


def _read_categories(path: Path) -> dict[int, str]:
    """Names by category id, in the order of the class indices."""
    try:
        categories = {int(entry["id"]): str(entry["name"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        raise InputError(
            "the run's list of classes is missing", str(path), "restore the file, or train again"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"no list of categories ({error!r})", str(path), "restore the file, or train again") from error
    return categories
