"""Annotation files as this project writes them: the same bytes for the same content, complete or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vireo.engine.folder import require_writable, write_atomically
from vireo.errors import InputError


def write_annotations(content: Mapping[str, Any], path: Path) -> str:
    """Write ``content`` as compact JSON with sorted keys; creates the folder.

    Returns:
        The SHA-256 of the file.

    Raises:
        InputError: the file cannot be written; a previous one is intact.
    """
    data = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    try:
        write_atomically(require_writable(path.parent) / path.name, lambda file: file.write(data))
    except InputError as error:
        raise InputError(error.what, str(path), "Choose a folder that is writable and has free space") from error
    return hashlib.sha256(data).hexdigest()


def two_columns(rows: Mapping[str, Any]) -> str:
    """Names and values, aligned, one line each; floats with four decimals."""
    width = max(map(len, rows))
    return "\n".join(
        f"{name.replace('_', ' '):<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}"
        for name, value in rows.items()
    )
