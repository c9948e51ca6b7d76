"""Logs of a run: JSON lines, Weights & Biases, and progress on the console."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vireo.engine.folder import unwritable, write_atomically
from vireo.errors import InputError

log = logging.getLogger(__name__)


def plain(value: Any) -> Any:
    """``value`` in JSON's types: tensors and numpy values become numbers and lists, NaN and infinity become None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(plain(content), indent=2) + "\n").encode()))


class JsonLines:
    """``log.jsonl``: one JSON object a line, appended and flushed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, **fields: Any) -> None:
        """Append ``{"kind": kind, **fields, "time": seconds since 1970}``."""
        line = json.dumps({"kind": kind, **plain(fields), "time": round(time.time(), 3)})
        try:
            with open(self.path, "a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise unwritable(error, self.path.parent) from error

    def rewind(self, step: int) -> None:
        """Drop what a run resumed at ``step`` writes again: later lines, that step's metrics, a half-written line."""
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if _before(line, step)]
            write_atomically(self.path, lambda file: file.write("".join(line + "\n" for line in lines).encode()))


def _before(line: str, step: int) -> bool:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return False
    last = step if entry.get("kind") == "train" else step - 1
    return entry.get("kind") == "event" or bool(entry.get("step", 0) <= last)


_WANDB_MODES = ("disabled", "offline", "online")


def wandb_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of ``wandb.init`` (project, name, ...) with a ``mode``, which is ``disabled`` if there is none.

    Raises:
        InputError: another mode than ``disabled``, ``offline`` or ``online``.
    """
    settings = {"mode": "disabled", **(settings or {})}
    if settings["mode"] not in _WANDB_MODES:
        remedy = f"use one of {', '.join(_WANDB_MODES)}"
        raise InputError(f"{settings['mode']!r} is not a choice", "wandb.mode", remedy)
    return settings


class WandbLog:
    """Weights & Biases, imported only if ``settings["mode"]`` is ``online`` or ``offline``.

    Args:
        settings: of :func:`wandb_settings`; ``disabled`` logs nothing.
        run_id: id of the run to continue, or None for a new one.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path, config: Any, run_id: str | None = None) -> None:
        self._run: Any = None
        if settings["mode"] == "disabled":
            return
        import wandb

        self._run = wandb.init(dir=str(folder), config=config, id=run_id, resume="allow", **settings)

    @property
    def run_id(self) -> str | None:
        """The id under which a restart continues this run, or None."""
        return self._run.id if self._run else None

    def write(self, values: Mapping[str, Any], step: int) -> None:
        """Log numbers (nested mappings become ``a/b``)."""
        if self._run:
            self._run.log(flatten(values, "/"), step=step)

    def images(self, name: str, paths: list[Path], step: int) -> None:
        """Log picture files."""
        if self._run and paths:
            import wandb

            self._run.log({name: [wandb.Image(str(path)) for path in paths]}, step=step)

    def close(self) -> None:
        """Finish the W&B run."""
        if self._run:
            self._run.finish()
            self._run = None


def flatten(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Nested mappings as one: ``{"a": {"b": 1}}`` is ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{separator}{inner}": entry for inner, entry in flatten(value, separator).items()}
        else:
            flat[str(key)] = value
    return flat


def memory_mb(device: torch.device) -> int:
    """Peak memory in MiB: of the CUDA device, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device) / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / (2**20 if sys.platform == "darwin" else 2**10))


class Console:
    """Progress of an epoch on stderr: a bar on a terminal, plain lines otherwise, nothing if not ``enabled``."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._bar: Any = None
        self._task: Any = None

    def say(self, message: str) -> None:
        """One line, above the bar if there is one."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def start(self, epoch: int, epochs: int, done: int, total: int) -> None:
        """Open the bar of an epoch (``done`` of ``total`` batches)."""
        if not (self.enabled and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=RichConsole(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(f"epoch {epoch + 1}/{epochs}", total=total, completed=done, note="")
        self._bar.start()

    def advance(self) -> None:
        """One batch done."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def report(self, entry: Mapping[str, Any], epochs: int, eta_s: float) -> None:
        """Show a train entry of the log: beside the bar, or as a line."""
        losses = " ".join(f"{name} {value:.4g}" for name, value in entry["losses"].items())
        total = sum(entry["losses"].values())
        speed = f"{entry['images_per_s']:.1f} img/s {entry['memory_mb']} MiB"
        note = f"loss {total:.4g} ({losses}) lr {entry['lr']:.3g} {speed}"
        if self._bar is not None:
            self._bar.update(self._task, note=note)
        else:
            left = time.strftime("%H:%M:%S", time.gmtime(eta_s)) if eta_s < 86400 else f"{eta_s / 86400:.1f} days"
            self.say(f"epoch {entry['epoch'] + 1}/{epochs} step {entry['step']} {note} eta {left}")

    def stop(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
