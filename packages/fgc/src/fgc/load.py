"""A trained network from the folder of its run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vireo.engine.finished import class_name, final_weights, read_classes, read_config

from .build import build_network, load_initial_weights


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


def load_run(folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> LoadedRun:
    """Build the network of a run and load its final weights, or others.

    Args:
        folder: written by ``fgc-train``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt`` of a run
            that is not finished, or a checkpoint in the authors' layout.

    Raises:
        InputError: no such run, no weights in it, or weights that cannot be read, are refused or do not fit.
    """
    config = read_config(folder, "fgc-train", ("model", "data", "image_size"))
    classes = read_classes(folder, "fgc-train", class_name)
    file = final_weights(folder) if weights is None else weights
    # the weights come from the file: nothing is to be downloaded first
    network = build_network(OmegaConf.merge(config.model, {"pretrained": False}), len(classes))
    load_initial_weights(network, str(file))
    return LoadedRun(network.eval(), config, classes)
