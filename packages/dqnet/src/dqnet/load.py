"""What a run of ``dqnet-train`` holds, and networks of published settings with weights from elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.finished import final_weights, read_config
from vireo.engine.rng import seed_all
from vireo.errors import InputError

from .build import build_network
from .model import DQnet

SCRIPT = "dqnet-train"
KEYS = ("model", "data", "loss", "seed")  # that every configuration of a run has


@dataclass(frozen=True)
class LoadedRun:
    """A network and the configuration that it was made by.

    Attributes:
        network: in evaluation mode, on the CPU.
        config: of the run or setting.
    """

    network: DQnet
    config: DictConfig


def load_run(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> LoadedRun:
    """The network of a run with its final weights, or others.

    Args:
        folder: of the run.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt``.
        untrained: weights drawn from the run's seed, as a run without ``init`` begins.

    Raises:
        InputError: no such run, no weights in it, both ``weights`` and ``untrained``, or weights that do not fit.
    """
    config = config_of(folder)
    if untrained and weights is not None:
        raise InputError("fresh weights, and those of a file", f"weights={weights}", "leave out one of the two")
    if untrained:
        seed_all(config.seed)
        return LoadedRun(build_network(config).eval(), config)
    path = Path(weights) if weights is not None else final_weights(folder)
    network = build_network(config)
    fit_state_dict(network, state_dict_in(read(path), str(path)), str(path))
    return LoadedRun(network.eval(), config)


def load_setting(name: str, weights: str | os.PathLike[str]) -> LoadedRun:
    """The network of an experiment of ``dqnet-train`` with weights of a file, ours or in the authors' layout.

    Args:
        name: of the experiment, e.g. ``cod``.
        weights: the file, or the folder of a run.

    Raises:
        InputError: no such experiment, or weights that cannot be read or do not fit.
    """
    from .weights import load_model

    config = setting_of(name)
    network = build_network(config)
    load_model(network, weights)
    return LoadedRun(network.eval(), config)


def config_of(folder: str | os.PathLike[str]) -> DictConfig:
    """The configuration of a run.

    Raises:
        InputError: no such run, or a configuration that is damaged or of something else.
    """
    return read_config(folder, SCRIPT, KEYS)


def setting_of(name: str) -> DictConfig:
    """The configuration of an experiment of ``dqnet-train``.

    Raises:
        InputError: no such experiment.
    """
    from contextlib import nullcontext

    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    inside = GlobalHydra.instance().is_initialized()  # a console script of ours
    with nullcontext() if inside else initialize_config_module("dqnet.conf", version_base="1.3"):
        try:
            return compose("train", [f"+experiment={name}"])
        except HydraException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError(f"no such experiment of {SCRIPT} ({reason})", "setting", "see conf/experiment") from error
