"""What a finished run holds: its network, configuration and classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig

from vireo.backbones import MaskedViT
from vireo.engine.checkpoint import fit_state_dict
from vireo.engine.finished import class_name, final_weights, read_classes, read_config_of
from vireo.engine.rng import seed_all
from vireo.errors import InputError

from .build import build_classifier, encoder_of, has_token
from .kinds import COMMON_KEYS, OWN_KEYS, SCRIPTS, Kind
from .mae import build_encoder, init_weights
from .official import load_encoder, read_state


@dataclass(frozen=True)
class LoadedRun:
    """What a finished run holds.

    Attributes:
        kind: which script it is of.
        network: a classifier, or the encoder of a pre-training or distillation; in evaluation mode, on the CPU.
        config: the run's configuration.
        classes: class names by label; empty where there are none.
    """

    kind: Kind
    network: MaskedViT
    config: DictConfig
    classes: tuple[str, ...]


def load_run(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> LoadedRun:
    """Build the classifier or the encoder of a run and load its final weights, or others.

    Args:
        folder: of a run of ``g2sd-finetune``, ``g2sd-distill`` or ``g2sd-pretrain``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt`` of a run
            that is not finished, or a checkpoint in the authors' layout.
        untrained: weights drawn from the run's seed, as a run without ``init`` begins.

    Raises:
        InputError: no such run, no weights in it, both ``weights`` and ``untrained``, or weights that cannot be read,
            are refused or do not fit.
    """
    config, kind = config_and_kind(folder)
    if untrained and weights is not None:
        raise InputError("fresh weights, and those of a file", f"weights={weights}", "leave out one of the two")
    if kind in ("segmentation", "detection"):
        scripts = ", ".join(SCRIPTS[of] for of in ("classifier", "distillation", "pretraining"))
        raise InputError(f"is a run of {SCRIPTS[kind]}", str(folder), f"give the folder of a run of {scripts}")
    classes = read_classes(folder, SCRIPTS[kind], class_name) if kind == "classifier" else ()
    if weights is None and not untrained:
        weights = final_weights(folder)
    if untrained:
        seed_all(config.seed)
    network: Any
    if kind == "classifier":
        network = build_classifier(config.model, len(classes), config.readout, has_token(config), config.head_std)
        if weights is not None:
            fit_state_dict(network, network.resized(read_state(weights)), str(weights))
    else:
        network = build_encoder(**encoder_of(config.model))
        init_weights(network)
        if weights is not None:
            load_encoder(network, weights)
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
