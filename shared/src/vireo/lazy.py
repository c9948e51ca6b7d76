"""Packages whose names are imported on first use, so that importing them and every ``--help`` stay quick."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def exports(package: str, file: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """``__all__``, ``__getattr__`` and ``__dir__`` of a package from its imports under ``if TYPE_CHECKING:``.

    ::

        if TYPE_CHECKING:
            from .model import Detector as Detector

        __all__, __getattr__, __dir__ = exports(__name__, __file__)

    Type checkers and editors take these imports as they stand. Here they are read from the source, and each is done
    when its name is first asked for.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.
    """
    homes: dict[str, tuple[str, str]] = {}
    for statement in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for line in statement.body:
                assert isinstance(line, ast.ImportFrom), f"{file}: only 'from ... import ...' under TYPE_CHECKING"
                module = "." * line.level + (line.module or "")
                homes |= {alias.asname or alias.name: (module, alias.name) for alias in line.names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = homes[name]
        return getattr(import_module(module, package), original)

    return list(homes), get, lambda: sorted({*vars(sys.modules[package]), *homes})
