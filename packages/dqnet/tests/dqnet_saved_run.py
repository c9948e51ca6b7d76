"""A run's folder as it is after training, written without any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dqnet_runs import TINY, configuration
from omegaconf import OmegaConf
from safetensors.torch import save_file

from dqnet.build import build_network
from vireo.engine.rng import seed_all


def saved_run(folder: Path, *overrides: str, settings: Sequence[str] = TINY) -> Path:
    """``config.yaml`` and ``model.safetensors`` of a tiny network with weights from seed 1; the run's seed is 0."""
    config = configuration(*settings, *overrides)
    seed_all(1)
    network = build_network(config)
    folder.mkdir(parents=True)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    return folder
