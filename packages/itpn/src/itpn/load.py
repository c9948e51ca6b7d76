"""What a finished run holds: its network, configuration and classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig
from torch import nn

from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.finished import class_name, final_weights, read_classes, read_config_of
from vireo.engine.rng import seed_all
from vireo.errors import InputError

from .build import build_backbone
from .kinds import COMMON_KEYS, OWN_KEYS, SCRIPTS, Kind

if TYPE_CHECKING:
    from .fast import FastITPN
    from .hivit import HiViT

_CLASSIFIER = ("norm.", "fc_norm.", "head.")


@dataclass(frozen=True)
class LoadedRun:
    """What a finished run holds.

    Attributes:
        kind: which script it is of.
        network: in evaluation mode, on the CPU.
        config: the run's configuration.
        classes: class names by label; of a pre-training run, which has none, empty.
    """

    kind: Kind
    network: nn.Module
    config: DictConfig
    classes: tuple[str, ...]

    @property
    def backbone(self) -> HiViT | FastITPN:
        """The network, where it is a classifier, or its backbone."""
        inner: Any = self.network if self.kind == "classifier" else self.network.backbone
        return cast("HiViT | FastITPN", inner)


def load_run(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> LoadedRun:
    """Build the network of a classification or pre-training run and load its final weights, or others.

    Args:
        folder: of a run of ``itpn-finetune`` or ``itpn-pretrain``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt`` of a run
            that is not finished, or a checkpoint in the authors' layout.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.

    Raises:
        InputError: no such run, no weights in it, both ``weights`` and ``untrained``, or weights that cannot be read,
            are refused or do not fit.
    """
    config, kind = config_and_kind(folder)
    if untrained and weights is not None:
        raise InputError("fresh weights, and those of a file", f"weights={weights}", "leave out one of the two")
    if kind not in ("classifier", "pretraining"):
        remedy = f"give the folder of a run of {SCRIPTS['classifier']} or {SCRIPTS['pretraining']}"
        raise InputError(f"is a run of {SCRIPTS[kind]}", str(folder), remedy)
    classes = read_classes(folder, SCRIPTS[kind], class_name) if kind == "classifier" else ()
    if weights is None and not untrained:
        weights = final_weights(folder)
    seed_all(config.seed)
    network: Any
    if kind == "classifier":
        network = build_backbone(config.model, len(classes), config.head_std)
        if weights is not None:
            load_classifier(network, weights)
    else:
        from .pretraining import build_pretraining, load_pretraining

        dim = 0 if config.objective == "pixel" else teacher_dim(weights)
        network = build_pretraining(config, dim)
        if weights is not None:
            load_pretraining(network, str(weights))
    return LoadedRun(kind, network.eval(), config, classes)


def config_and_kind(folder: str | os.PathLike[str]) -> tuple[DictConfig, Kind]:
    """The configuration of a run of any of our scripts, and its kind.

    Raises:
        InputError: no such run, or a configuration that is damaged or of something else.
    """
    config, kind = read_config_of(folder, SCRIPTS, OWN_KEYS, COMMON_KEYS)
    return config, cast(Kind, kind)


def model_of(path: str | os.PathLike[str]) -> Any:
    """The ``model`` configuration of the run in a folder; None where there is no run."""
    return config_and_kind(path)[0].model if (Path(path) / "config.yaml").is_file() else None


def load_classifier(network: HiViT | FastITPN, path: str | os.PathLike[str]) -> None:
    """Load a classifier strictly, from our layout or the authors'; tables of another image size are resized.

    Raises:
        InputError: an unreadable file, or keys that do not fit.
    """
    from .official import fit_backbone, read_state, split_official

    state = read_state(path)
    entries, _ = fit_backbone(network, state, str(path))
    heads = {key: value for key, value in split_official(state).heads.items() if key.startswith(_CLASSIFIER)}
    fit_state_dict(network, {**entries, **heads}, str(path))


def teacher_dim(weights: str | os.PathLike[str] | None) -> int:
    """Values of the targets that a feature pre-training was trained on, read from its weights; fresh ones: 512."""
    if weights is None:
        return 512
    head = state_dict_in(read(weights), str(weights)).get("lm_head.weight")
    return 512 if head is None else len(head)
