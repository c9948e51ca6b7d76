"""What a run leaves in its folder beside checkpoints: configuration, final weights, results."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from vireo.engine.checkpoint import save_weights
from vireo.engine.folder import write_atomically
from vireo.engine.logs import flatten, plain, write_json

_PACKAGES = ("vireo", "torch", "torchvision", "timm", "lightning", "numpy")


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.yaml``."""
    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))


def changed_keys(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The flattened keys in which ``config`` differs from the folder's ``config.yaml`` (none without one)."""
    path = folder / "config.yaml"
    if not path.exists():
        return []
    old, new = flatten(yaml.safe_load(path.read_text()) or {}), flatten(plain(config))
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def finished_epochs(folder: Path) -> int | None:
    """Epochs of the finished run in ``folder``, None if there is none."""
    try:
        content = json.loads((folder / "metrics.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return int(content["epochs"]) if content.get("finished") else None


def remove_run(folder: Path) -> None:
    """Remove checkpoints, log and results of an earlier run, nothing else."""
    names = ("config.yaml", "log.jsonl", "metrics.json", "model.safetensors", "config.json")
    for path in [*(folder / "checkpoints").glob("*.pt"), *(folder / name for name in names)]:
        path.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide on numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_weights(folder: Path, module: nn.Module, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json`` (the network's own arguments where it is a hub model)."""
    save_weights(state, folder / "model.safetensors")
    arguments = getattr(module, "_hub_mixin_config", None)
    write_json(folder / "config.json", arguments if isinstance(arguments, Mapping) else config)
