"""Files of a run's folder: written beside, flushed to the disk and renamed; clear errors where that is refused."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vireo.errors import InputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def unwritable(error: OSError, folder: Path, setting: str = "output_dir=...") -> InputError:
    """The message for an operating-system error met while writing into ``folder``, which ``setting`` chooses."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    if error.errno in _FULL:
        remedy = f"free space on that disk, or choose another folder with {setting}"
    else:
        remedy = f"make it writable, or choose another folder with {setting}"
    return InputError(f"the output folder cannot be written ({reason})", str(folder), remedy.removesuffix("."))


def require_writable(folder: str | os.PathLike[str], setting: str = "output_dir=...") -> Path:
    """Create ``folder`` and write a probe of 64 KiB into it, so that a read-only or full disk shows before training.

    Args:
        folder: where files are going to be written.
        setting: what the user gives to choose another, for the message.

    Raises:
        InputError: naming folder, reason and remedy.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(65536))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise unwritable(error, folder, setting) from error
    return folder


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write(file)`` fill a file beside ``path``, flush it and rename it: ``path`` is never half written.

    Raises:
        InputError: the disk is full or read-only; the previous ``path`` is intact.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        cause = _os_error(error)
        if cause is not None:
            raise unwritable(cause, path.parent) from error
        raise


def write_reproducibly(content: Mapping[str, Any], path: Path) -> str:
    """Write JSON with sorted keys and no spaces: the same bytes for the same content; creates the folder.

    Returns:
        The SHA-256 of the file.

    Raises:
        InputError: the file cannot be written; a previous one is intact.
    """
    data = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    try:
        write_atomically(require_writable(path.parent) / path.name, lambda file: file.write(data))
    except InputError as error:
        raise InputError(error.what, str(path), "choose a folder that is writable and has free space") from error
    return hashlib.sha256(data).hexdigest()


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed while writing left beside the files of ``folder``."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError behind ``error``: torch's writer turns a refused write into a RuntimeError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable (a no-op where folders cannot be opened)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
