"""Numbers as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def two_columns(rows: Mapping[str, Any]) -> str:
    """Names (underscores as spaces) and values, aligned, one line each; floats with four decimals."""
    width = max(map(len, rows))
    return "\n".join(
        f"{name.replace('_', ' '):<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}"
        for name, value in rows.items()
    )
