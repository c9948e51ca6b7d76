"""API pages of the named packages as HTML: ``python docs/api.py OUTPUT_FOLDER PACKAGE...`` (needs pdoc)."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pdoc


def resolve_lazy_names(package: str) -> None:
    """Import what ``__all__`` of the package and its sub-packages names: pdoc sees only names that are there."""
    root = import_module(package)
    names = [package, *(found.name for found in walk_packages(root.__path__, f"{package}.") if found.ispkg)]
    for module in map(import_module, names):
        for name in getattr(module, "__all__", ()):
            setattr(module, name, getattr(module, name))


if __name__ == "__main__":
    folder, *packages = sys.argv[1:]
    for name in packages:
        resolve_lazy_names(name)
    pdoc.pdoc(*packages, output_directory=Path(folder))
    print(f"API pages: {folder}/index.html")
