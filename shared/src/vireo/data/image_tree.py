"""All images of a folder, however they are arranged below it, for training without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vireo.data.classification_files import ClassificationFiles, positive_size
from vireo.data.image_files import IMAGE_SUFFIXES
from vireo.data.records import OnError, note
from vireo.errors import InputError


class ImageTree(ClassificationFiles):
    """The images anywhere below ``root``, without labels: class folders, a flat folder, or folders in folders.

    JPEG, PNG, WebP and BMP are taken by their suffix, in any case of letters, in the order of their sorted paths, so
    indices are the same in every run. Names that start with a dot are ignored; other files are left alone and mentioned
    in ``notes``. Links to folders are followed, but each folder is listed once, under the first of its paths. All
    samples are of the one class ``"images"``, label 0.

    Args:
        root: the folder.
        on_error: what :meth:`check_images` and :meth:`arrays` do with an image that cannot be read: ``"raise"`` its
            error, or ``"skip"`` it. When single samples are asked for, the loader's ``on_error`` decides.
        image_size: ``(h, w)`` to which every image is resized, see :func:`~vireo.data.classification.resize_images`.

    Raises:
        InputError: ``root`` is missing or no folder, holds no image, or a folder below it cannot be read.
    """

    def __init__(
        self, root: str | Path, on_error: OnError = "raise", image_size: tuple[int, int] | None = None
    ) -> None:
        folder = Path(root)
        size = positive_size(image_size, str(root))
        files, others, repeated = _images_below(folder)
        if not files:
            remedy = f"Add images ({', '.join(IMAGE_SUFFIXES)}) or correct data.root"
            raise InputError("no image in this folder or below it", str(folder), remedy)
        notes = [
            *note(f"files below {folder} are no images and were left alone", others),
            *note(f"folders below {folder} were not listed again under a second path", repeated),
        ]
        labels = np.zeros(len(files), dtype=np.int64)
        super().__init__(folder, files, ("images",), labels, on_error=on_error, image_size=size, notes=notes)


def _images_below(root: Path) -> tuple[list[bytes], list[str], list[str]]:
    """Paths relative to ``root``, in order: images (encoded), other files, and folders met before by another path."""
    files: list[bytes] = []
    others: list[str] = []
    repeated: list[str] = []
    visited: set[tuple[int, int]] = set()

    def enter(path: str) -> tuple[str, Iterator[str], set[str]]:
        names, folders = _entries(str(root / path))
        return path and f"{path}/", iter(names), folders

    try:
        levels = [enter("")]
        visited.add(_identity(root))
        while levels:
            prefix, names, folders = levels[-1]
            name = next(names, None)
            if name is None:
                levels.pop()
            elif name in folders:
                identity = _identity(root / prefix / name)
                if identity in visited:  # a link back up would otherwise go round for ever
                    repeated.append(prefix + name)
                else:
                    visited.add(identity)
                    levels.append(enter(prefix + name))
            elif name.lower().endswith(IMAGE_SUFFIXES):
                files.append(os.fsencode(prefix + name))
            else:
                others.append(prefix + name)
    except FileNotFoundError as error:
        raise InputError("there is no such folder", error.filename, "Correct data.root") from None
    except NotADirectoryError as error:
        raise InputError("this is a file, not a folder of images", error.filename, "Give the folder it is in") from None
    except OSError as error:
        what = f"folder cannot be read ({error.strerror})"
        raise InputError(what, error.filename, "Make it readable or remove it") from error
    return files, others, repeated


def _entries(folder: str) -> tuple[list[str], set[str]]:
    """Sorted names in ``folder`` that do not start with a dot, and which of them are folders or links to one."""
    names: list[str] = []
    folders: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                names.append(entry.name)
                if _is_folder(entry):
                    folders.add(entry.name)
    return sorted(names), folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
