"""The folder of a run without its training: a small network with random weights that finds something everywhere."""

from __future__ import annotations

from pathlib import Path

import torch
from p2p_runs import DATA, configuration
from safetensors.torch import save_file

from p2p_loc.build import build_localizer
from p2p_loc.small import SmallLocalizer
from vireo.engine.cli import plain
from vireo.engine.finished import save_classes
from vireo.engine.results import write_config

MODEL = ["model.widths=[4,8]", "model.dilations=[1,2]", "model.score_threshold=0.001", "model.max_detections=20"]


def saved_run(folder: Path, *overrides: str) -> Path:
    """What ``p2p-eval`` and ``p2p-predict`` need: two rounds, the last one's weights on top."""
    config = configuration(*DATA, *MODEL, "rounds=1", f"output_dir={folder}", *overrides)
    for number in (0, 1):
        torch.manual_seed(number)
        network = build_localizer(config.model, 1)
        assert isinstance(network, SmallLocalizer)
        with torch.no_grad():
            network.head.weight.normal_(std=0.3)  # scores that differ
        round_folder = folder / f"round_{number}"
        round_folder.mkdir(parents=True)
        save_file(network.state_dict(), round_folder / "model.safetensors")
        save_file(network.state_dict(), folder / "model.safetensors")
    write_config(folder, plain(config))
    save_classes(folder, [{"id": 1, "name": "person"}])
    return folder
