"""Classification images in folders named by class: ``root/split/class/image``, as ImageNet is unpacked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vireo.data.classification_files import ClassificationFiles, positive_size
from vireo.data.image_files import IMAGE_SUFFIXES
from vireo.data.records import OnError, note
from vireo.errors import InputError


class ImageFolder(ClassificationFiles):
    """Images at ``root/split/<class>/*``: JPEG, PNG, WebP and BMP by their suffix, in any case of letters.

    Classes and the files of a class are in alphabetical order, so labels and indices are the same in every run. Other
    files are left alone and mentioned in ``notes``.

    Args:
        root: folder that holds the splits.
        split: ``train``, ``val``, ``test`` or however the folder is called.
        on_error: what :meth:`check_images` and :meth:`arrays` do with an image that cannot be read: ``"raise"`` its
            error, or ``"skip"`` it. When single samples are asked for, the loader's ``on_error`` decides.
        image_size: ``(h, w)`` to which every image is resized, see :func:`~vireo.data.classification.resize_images`.

    Raises:
        InputError: no such split, no class folder in it, or a class without images.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        on_error: OnError = "raise",
        image_size: tuple[int, int] | None = None,
    ) -> None:
        folder = Path(root) / split
        size = positive_size(image_size, str(root))
        classes, foreign = _class_folders(folder)
        labels: list[int] = []
        files: list[bytes] = []
        for label, name in enumerate(classes):
            images, others = _images_of(folder / name)
            files += [os.fsencode(f"{name}/{image}") for image in images]
            labels += [label] * len(images)
            foreign += [f"{name}/{other}" for other in others]
        notes = note(f"entries of {folder} are no images of a class and were left alone", foreign)
        super().__init__(folder, files, classes, np.array(labels), on_error=on_error, image_size=size, notes=notes)


def _class_folders(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the class folders in ``folder``, and of everything else there."""
    if not folder.is_dir():
        parent = folder.parent
        there = sorted(entry.name for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
        found = f"{parent} has the folders: {', '.join(there)}" if there else f"{parent} has no folders"
        raise InputError(f"there is no such split; {found}", str(folder), "Correct data.root or the split's name")
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    classes = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if not classes:
        remedy = "Sort the images into one folder per class: split/class/image.jpg"
        raise InputError("no class folders", str(folder), remedy)
    return classes, sorted({entry.name for entry in entries} - set(classes))


def _images_of(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the images in a class folder, and of everything else there."""
    names = sorted(os.listdir(folder))
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    if not images:
        known = ", ".join(IMAGE_SUFFIXES)
        raise InputError("class without images", str(folder), f"Add images ({known}) or remove the folder")
    return images, sorted(set(names) - set(images))
