"""What a finished run holds: its network, configuration and classes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf

from vireo.backbones import MaskedViT
from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.logs import write_json
from vireo.engine.rng import seed_all
from vireo.errors import InputError

from .build import build_encoder, build_pretraining
from .model import TokenPretrainModel
from .official import from_official, is_official, load_pretraining

Kind = Literal["pretraining", "classifier"]

CLASSES_FILE = "classes.json"
_SCRIPTS = {"pretraining": "beyond-masking-pretrain", "classifier": "beyond-masking-finetune"}
_COMMON_KEYS = {"model", "data", "augmentation", "optim", "seed"}
_OWN_KEYS: dict[Kind, set[str]] = {"pretraining": {"degradation", "mask_ratio"}, "classifier": {"readout", "mixing"}}
_SIZES = ("patch_size", "embed_dim", "depth", "num_heads")  # the image may have another size: positions are computed


@dataclass(frozen=True)
class LoadedRun:
    """What a finished run holds.

    Attributes:
        kind: of ``beyond-masking-pretrain`` or of ``beyond-masking-finetune``.
        network: in evaluation mode, on the CPU.
        config: the run's configuration.
        classes: class names by label; of a pre-training run, which has none, empty.
    """

    kind: Kind
    network: TokenPretrainModel | MaskedViT
    config: DictConfig
    classes: tuple[str, ...]

    @property
    def pretraining(self) -> TokenPretrainModel:
        """The network of a pre-training run."""
        assert isinstance(self.network, TokenPretrainModel), "ask load_run for this kind"
        return self.network

    @property
    def encoder(self) -> MaskedViT:
        """The network, or its encoder."""
        return self.network if isinstance(self.network, MaskedViT) else self.network.encoder


def save_classes(folder: Path, classes: Iterable[str]) -> None:
    """Write ``classes.json``: the class names in the order of their labels."""
    write_json(folder / CLASSES_FILE, list(classes))


def load_run(
    folder: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    kind: Kind | None = None,
    untrained: bool = False,
) -> LoadedRun:
    """Build the network of a run and load its final weights, or others.

    Args:
        folder: of a run of ``beyond-masking-pretrain`` or ``beyond-masking-finetune``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt`` of a run
            that is not finished, or a checkpoint in the authors' layout.
        kind: that the run must be of; None for either.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.

    Raises:
        InputError: no such run, one of another kind, no weights in it, both ``weights`` and ``untrained``, or weights
            that cannot be read, are refused or do not fit.
    """
    folder = Path(folder)
    config, found = _read_config(folder)
    if kind is not None and found != kind:
        what = f"is a run of {_SCRIPTS[found]}"
        raise InputError(what, str(folder), f"give the folder of a run of {_SCRIPTS[kind]}")
    if untrained and weights is not None:
        raise InputError("fresh weights, and those of a file", f"weights={weights}", "leave out one of the two")
    classes = _read_classes(folder / CLASSES_FILE) if found == "classifier" else ()
    if weights is None and not untrained and not (folder / "model.safetensors").is_file():
        checkpoints = sorted((folder / "checkpoints").glob("*.pt"))
        remedy = f", or take a checkpoint with weights={checkpoints[0]}" if checkpoints else ""
        raise InputError("holds no model.safetensors: the run is not finished", str(folder), f"go on training{remedy}")
    seed_all(config.seed)
    network: TokenPretrainModel | MaskedViT
    if found == "pretraining":
        network = build_pretraining(config)
    else:
        network = build_encoder(config.model, readout=config.readout, num_classes=len(classes))
    if not untrained:
        file = weights if weights is not None else folder / "model.safetensors"
        if isinstance(network, MaskedViT):
            load_classifier(network, file)
        else:
            load_pretraining(network, file)
    return LoadedRun(found, network.eval(), config, classes)


def load_classifier(model: MaskedViT, path: str | os.PathLike[str]) -> None:
    """Load a classifier strictly, from our layout or the authors'.

    Raises:
        InputError: an unreadable file, or keys that do not fit.
    """
    state = state_dict_in(read(path), str(path))
    if is_official(state):
        fixed = {} if model.positions == "learned" else {"pos_embed": model.state_dict()["pos_embed"]}
        state = {**from_official(state), **fixed}
    fit_state_dict(model, state, str(path))


def require_same_sizes(model: Any, init: str, readout: str = "mean") -> None:
    """Check that a classifier has the sizes of the run it starts from; nothing to check where ``init`` is a file.

    Args:
        model: the classifier's ``model`` configuration.
        init: folder of a run, or a checkpoint.
        readout: the classifier's; ``cls`` has positions of its own.

    Raises:
        InputError: naming the sizes of both.
    """
    if not (Path(init) / "config.yaml").is_file():
        return
    theirs = _read_config(Path(init))[0].model
    names = [*_SIZES, *(["positions"] if readout != "cls" else [])]
    differing = [name for name in names if theirs.get(name) != model.get(name)]
    if differing:
        sizes = [", ".join(f"{name} {own.get(name)}" for name in differing) for own in (theirs, model)]
        overrides = " ".join(f"model.{name}={theirs.get(name)}" for name in differing)
        what = f"the run's model has {sizes[0]}; this one has {sizes[1]}"
        raise InputError(what, init, f"give the model of its pre-training: {overrides}")


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


def _read_config(folder: Path) -> tuple[DictConfig, Kind]:
    path = folder / "config.yaml"
    remedy = f"give the folder of a run of {' or '.join(_SCRIPTS.values())}"
    if not path.is_file():
        raise InputError("holds no config.yaml", str(folder), remedy)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot be read ({str(error).splitlines()[0]})", str(path), "restore the file") from error
    for kind, own in _OWN_KEYS.items():
        if isinstance(content, dict) and _COMMON_KEYS | own <= content.keys():
            return OmegaConf.create(content), kind
    raise InputError("is no configuration of this paper", str(path), remedy)


def _read_classes(path: Path) -> tuple[str, ...]:
    remedy = f"restore the file; {_SCRIPTS['classifier']} writes it"
    try:
        classes = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError("cannot be read", str(path), remedy) from error
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError("is no list of class names", str(path), remedy)
    return tuple(classes)
