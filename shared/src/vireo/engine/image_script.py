"""Scripts that make a picture of each image named on their command line. Nothing here imports torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from vireo.data.image_files import expand_folders, picture_files
from vireo.engine.folder import require_writable
from vireo.errors import InputError

_Made = TypeVar("_Made")


def image_parser(script: str, description: str, out: str) -> argparse.ArgumentParser:
    """A parser of ``IMAGE...`` and ``--out``, whose default is ``out``."""
    parser = argparse.ArgumentParser(prog=script, description=description)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of images")
    parser.add_argument("--out", default=out, help="folder for the pictures (default: %(default)s)")
    return parser


def prediction_parser(script: str, description: str, run: str, json: str) -> argparse.ArgumentParser:
    """A parser of what scripts of a trained network take: also ``--run``, ``--weights``, ``--json`` and ``--device``.

    Args:
        script, description: shown by ``--help``.
        run: default folder of the run.
        json: what is written with ``--json``.
    """
    parser = image_parser(script, description, "predictions")
    parser.add_argument("--run", default=run, help="folder of a finished run (default: %(default)s)")
    parser.add_argument("--weights", metavar="FILE", help="other weights of the same network")
    parser.add_argument("--json", metavar="FILE", help=f"also write {json}")
    parser.add_argument("--device", default=None, help="e.g. cpu (default: CUDA if there is a device)")
    return parser


def named_images(arguments: argparse.Namespace, as_png: bool = False) -> list[tuple[Path, Path]]:
    """Each image of the command line, and where its picture goes: a file of its name, PNG in any case if ``as_png``.

    Raises:
        InputError: a folder without images, pictures that would replace images, or an output that cannot be written.
    """
    paths = expand_folders(arguments.images)
    targets = picture_files([path.with_suffix(".png") if as_png else path for path in paths], Path(arguments.out))
    require_writable(arguments.out, "--out")
    if getattr(arguments, "json", None):
        require_writable(Path(arguments.json).parent, "--json")
    return list(zip(paths, targets))


def for_each_image(
    images: Iterable[tuple[Path, Path]], make: Callable[[Path], _Made], use: Callable[[Path, Path, _Made], object]
) -> int:
    """``use(path, target, make(path))`` for each image that can be read; the others are listed on stderr at the end.

    Returns:
        The exit status: 2 if an image could not be read.
    """
    bad = []
    for path, target in images:
        try:
            made = make(path)
        except InputError as error:  # its remedy speaks of data sets
            bad.append(f"{error.where}: {error.what}")
        else:
            use(path, target, made)
    for line in bad:
        print(f"error: {line}", file=sys.stderr)
    return 2 if bad else 0
