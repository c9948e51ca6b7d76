"""What the papers' adapters for detectron2 say where it is not installed."""

from __future__ import annotations

from typing import NoReturn

INSTALL = (  # its build needs torch and setuptools in place, its model zoo pkg_resources, which setuptools 82 left out
    "pip install 'setuptools<81' && pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833'"
)


def explain_missing(adapter: str, error: ModuleNotFoundError) -> NoReturn:
    """Raise what a user of an adapter should read when the imports of detectron2 have failed.

    Args:
        adapter: name of its module, e.g. ``g2sd.detectron2``.
        error: of the imports.

    Raises:
        ImportError: detectron2 is absent; with the command that installs it.
        ModuleNotFoundError: ``error`` itself, where detectron2 is there and misses something of its own.
    """
    if (error.name or "").split(".")[0] != "detectron2":
        raise error
    what = f"{adapter} needs detectron2, which is not on the package index. Install it with: {INSTALL}"
    raise ImportError(what) from error
