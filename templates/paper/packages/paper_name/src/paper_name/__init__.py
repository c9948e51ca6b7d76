"""The paper in one line (arXiv number).

The public surface is imported on first use, so that ``import paper_name`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; _HOMES says the same to the interpreter
    from .model import SmallNet as SmallNet
    from .official import from_official as from_official

__version__ = "0.1.0"

_HOMES = {"SmallNet": "model", "from_official": "official"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
