"""Checkpoints that survive a kill at any moment, and weights from elsewhere loaded with a clear report.

A checkpoint is torch's zip file, which carries a CRC-32 of every entry: ``intact`` verifies them all, so a torn or
flipped file is recognised without a format of our own. Nothing is ever unpickled beyond tensors and plain types.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vireo.engine.folder import write_atomically
from vireo.errors import InputError

log = logging.getLogger(__name__)
_WANTED = re.compile(r"(?:GLOBAL|Unsupported class) (\S+)")  # what a refused pickle asked for, in torch's message
_LISTED = 8  # keys of a report written out before "and n more"


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts of them) to ``path`` atomically."""
    write_atomically(path, lambda file: torch.save(dict(state), file))


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors, atomically; tied weights are written once per key."""
    from safetensors.torch import save as serialize

    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        address = value.untyped_storage().data_ptr()
        tensors[key] = value.clone() if address in storages else value  # safetensors refuses shared memory
        storages.add(address)
    data = serialize(tensors, metadata={"format": "pt"})
    write_atomically(path, lambda file: file.write(data))


def intact(path: Path) -> bool:
    """Whether ``path`` is a complete zip file whose entries all match their checksums."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, ValueError):
        return False


def checkpoints_in(folder: Path) -> list[Path]:
    """The ``step_*.pt`` files of ``folder``, newest (highest step) first."""
    return sorted(folder.glob("step_*.pt"), reverse=True)


def newest_intact(folder: Path) -> Path | None:
    """The newest intact checkpoint of ``folder``; torn ones are skipped with a warning. None if there is no file.

    Raises:
        InputError: there are checkpoints and none is intact.
    """
    files = checkpoints_in(folder)
    for path in files:
        if intact(path):
            return path
        log.warning("%s: torn or damaged checkpoint skipped, trying the one before", path)
    if files:
        raise InputError(
            f"none of the {len(files)} checkpoints can be read (torn or damaged: {', '.join(p.name for p in files)})",
            str(folder),
            "restore one from a backup, or start anew with resume=never",
        )
    return None


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the ``count`` newest ``step_*.pt`` of ``folder``."""
    for path in checkpoints_in(folder)[max(1, count) :]:
        path.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> Any:
    """Read a ``.safetensors`` file or a torch file without executing anything from it; tensors arrive on the CPU.

    ``argparse.Namespace`` (the options stored by many official checkpoints) is read as inert data.

    Raises:
        InputError: no such file, a cut-off or foreign file, or a pickle that wants to call something.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", str(path), "check the path of the checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = _WANTED.search(str(error))
        if wanted or _is_bare_pickle(path):
            name = f" ({wanted[1].rstrip('.')})" if wanted else ""
            raise InputError(
                f"refused: the file holds more than tensors{name} and could execute code when read",
                str(path),
                "convert it to .safetensors where you trust its origin",
            ) from error
        raise _unreadable(path, error) from error
    except Exception as error:  # the readers raise many types for damaged files
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        f"cannot be read as a checkpoint ({reason[:160].rstrip('.')})", str(path), "copy or download it again"
    )


def _is_bare_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1) == b"\x80"


class LoadReport(NamedTuple):
    """Keys that did not fit: absent from the file, absent from the model, or of another shape."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]  # "key (file (3, 2), model (3, 4))"

    def __bool__(self) -> bool:
        return any(self)

    def __str__(self) -> str:
        parts = [f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in zip(self._fields, self) if keys]
        return "; ".join(parts) or "all keys fit"


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more


def state_dict_in(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict in ``content``, bare or under ``model``, ``state_dict`` or DeepSpeed's ``module``.

    A ``module.`` before all names is stripped.
    """
    for key in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise InputError("holds no state dict", where, "give a file of weights, bare or under 'state_dict' or 'model'")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def fit_state_dict(model: nn.Module, state: Mapping[str, Tensor], where: str, strict: bool = True) -> LoadReport:
    """Load ``state`` into ``model``; see :func:`load_weights`."""
    own = model.state_dict()
    report = LoadReport(
        missing=[key for key in own if key not in state],
        unexpected=[key for key in state if key not in own],
        misshaped=[
            f"{key} (file {tuple(state[key].shape)}, model {tuple(own[key].shape)})"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    )
    if strict and report:
        raise InputError(f"the checkpoint does not fit the model; {report}", where, "use the checkpoint of this model")
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if not fitting:
        raise InputError(f"no key fits the model; {report}", where, "use a checkpoint of this architecture")
    model.load_state_dict(fitting, strict=False)
    return report


def load_weights(model: nn.Module, path: str | os.PathLike[str], strict: bool = True) -> LoadReport:
    """Load weights from ``path`` into ``model`` and say which keys did not fit.

    Args:
        model: receives the weights in place, on its own device.
        path: ``.safetensors`` or torch file; the state dict bare or under ``state_dict`` or ``model``, with or without
            the ``module.`` that DistributedDataParallel puts before each key.
        strict: raise unless all keys and shapes fit; otherwise load what fits (the rest is in the report).

    Raises:
        InputError: unreadable file, a pickle that would execute code (refused, not run), a file without a state dict,
            keys that do not fit (listed by kind), or, not strict, no fitting key at all.
    """
    return fit_state_dict(model, state_dict_in(read(path), str(path)), str(path), strict)
