"""A trained detector from the folder of its run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from vireo.data import DetectionDataset
from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.finished import final_weights, read_classes, read_config
from vireo.errors import InputError

from .build import build_model
from .model import SSDDet
from .official import from_official

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


def load_run(folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> LoadedRun:
    """Build the detector of a run and load its final weights, or others.

    Args:
        folder: written by ``ssd-det-train``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt`` of a run
            that is not finished, or a checkpoint in the authors' layout, which is recognised by its keys.

    Raises:
        InputError: no such run, no weights in it, or weights that cannot be read, are refused or do not fit.
    """
    config = _read_config(folder)
    categories = dict(read_classes(folder, "ssd-det-train", lambda entry: (int(entry["id"]), str(entry["name"]))))
    file = final_weights(folder) if weights is None else weights
    # the weights come from the file: nothing is to be downloaded first
    plain_start = OmegaConf.merge(config.model, {"pretrained": False, "backbone_weights": None})
    model = build_model(plain_start, config.refiner, len(categories))
    load_detector(model, file)
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


def category_rows(dataset: DetectionDataset) -> list[dict[str, Any]]:
    """A training set's categories as COCO writes them, in the order of the class indices: a run's ``classes.json``."""
    return [{"id": number, "name": name} for number, name in zip(dataset.category_ids, dataset.classes)]


def _read_config(folder: str | os.PathLike[str]) -> DictConfig:
    config = read_config(folder, "ssd-det-train", ("model", "refiner", "data"))
    defaults = resources.files("ssd_det.conf").joinpath("data", f"{config.data.get('format')}.yaml")
    if defaults.is_file():  # settings younger than the run
        config.data = OmegaConf.merge(yaml.safe_load(defaults.read_text(encoding="utf-8")), config.data)
    return config
