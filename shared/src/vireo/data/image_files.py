"""Image files named on a command line, and the pictures made of them; nothing here decodes anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vireo.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def expand_folders(arguments: Sequence[str | Path]) -> list[Path]:
    """The files among ``arguments`` and the images in the folders among them, sorted within a folder, each once.

    Raises:
        InputError: a folder without images.
    """
    paths: list[Path] = []
    for path in map(Path, arguments):
        if not path.is_dir():
            paths.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not inside:
            remedy = f"Give a folder with files {', '.join(IMAGE_SUFFIXES)}"
            raise InputError("no image in this folder", str(path), remedy)
        paths += inside
    return list(dict.fromkeys(paths))


def picture_files(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Where the picture made of each image goes: under the image's own name, numbered where two images share it.

    JPEGs stay JPEGs, all others become PNGs.

    Raises:
        InputError: ``folder`` holds the images themselves, which could be replaced.
    """
    if any(path.parent.resolve() == folder.resolve() for path in paths):
        raise InputError("pictures would replace images", str(folder), "Choose another folder with --out")
    taken: dict[str, int] = {}
    targets = []
    for path in paths:
        suffix = ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name = f"{path.stem}{suffix}"
        taken[name] = taken.get(name, 0) + 1
        targets.append(folder / (name if taken[name] == 1 else f"{path.stem}_{taken[name]}{suffix}"))
    return targets
