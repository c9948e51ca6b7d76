"""Classification images in folders named by class: ``root/split/class/image``, as ImageNet is unpacked."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from vireo.data.classification import ClassificationDataset, resize_images
from vireo.data.decode import decode_image
from vireo.data.header import read_header
from vireo.data.image_files import IMAGE_SUFFIXES
from vireo.data.records import OnError, note
from vireo.errors import InputError


class ImageFolder(ClassificationDataset):
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
        self.folder = Path(root) / split
        if image_size is not None and min(image_size) < 1:
            raise InputError(f"image_size {tuple(image_size)} is not positive", str(root), "Use e.g. (32, 32)")
        self.image_size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
        classes, foreign = _class_folders(self.folder)
        labels: list[int] = []
        files: list[bytes] = []
        for label, name in enumerate(classes):
            images, others = _images_of(self.folder / name)
            files += [os.fsencode(f"{name}/{image}") for image in images]
            labels += [label] * len(images)
            foreign += [f"{name}/{other}" for other in others]
        self._files = np.array(files)  # one block of bytes, which forked workers share; a list of str they would copy
        notes = note(f"entries of {self.folder} are no images of a class and were left alone", foreign)
        super().__init__(classes, np.array(labels), on_error=on_error, notes=notes)

    def image_path(self, index: int) -> Path:
        """The image file of sample ``index``."""
        return self.folder / os.fsdecode(self._files[self.sources[index]].item())

    def name(self, index: int) -> str:
        """The path of the file."""
        return str(self.image_path(index))

    def load_image(self, index: int) -> Tensor:
        """Decode the image of sample ``index``.

        Raises:
            InputError: the file is missing, damaged or too large.
        """
        image = decode_image(self.image_path(index))
        return image if self.image_size is None else resize_images(image, self.image_size)

    def check_images(self, workers: int = 4, decode: bool = False) -> None:
        """Open every image before training: its header must be readable.

        With ``on_error="skip"`` bad images leave the data set and are listed in ``skipped``; the others are numbered
        anew. Call it before a loader or a memory bank is built.

        Args:
            workers: threads.
            decode: decode the pixels too, which also finds files cut off in the middle.

        Raises:
            InputError: for the first bad image, with ``on_error="raise"``.
        """

        def fault(index: int) -> InputError | None:
            path = self.image_path(index)
            try:
                decode_image(path) if decode else read_header(path)
            except InputError as error:
                return error
            return None

        faults: dict[int, InputError] = {}
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            try:
                for index, error in enumerate(pool.map(fault, range(len(self)))):
                    if error is not None:
                        self._judge(index, error, faults)
            finally:
                pool.shutdown(cancel_futures=True)
        self._leave_out(faults)


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
