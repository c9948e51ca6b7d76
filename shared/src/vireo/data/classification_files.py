"""Classification data sets whose images are files below one folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from vireo.data.classification import ClassificationDataset, resize_images
from vireo.data.decode import decode_image
from vireo.data.header import read_header
from vireo.data.records import OnError
from vireo.errors import InputError


class ClassificationFiles(ClassificationDataset):
    """A classification data set whose images are files of ``folder`` or of folders below it.

    Args:
        folder: what the files' paths are relative to.
        files: one path per sample, as the file system encodes it.
        classes, labels, on_error, notes: see :class:`~vireo.data.classification.ClassificationDataset`.
        image_size: see :func:`positive_size`.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[bytes],
        classes: Sequence[str],
        labels: np.ndarray,
        *,
        on_error: OnError = "raise",
        image_size: tuple[int, int] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        super().__init__(classes, labels, on_error=on_error, notes=notes)
        self.folder, self.image_size = folder, image_size
        # One block of bytes, which forked workers share: objects, one per file, they would copy.
        self._paths = b"".join(files)
        self._ends = np.cumsum([0, *map(len, files)])

    def image_path(self, index: int) -> Path:
        """The image file of sample ``index``."""
        source = self.sources[index]
        return self.folder / os.fsdecode(self._paths[self._ends[source] : self._ends[source + 1]])

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


def positive_size(size: tuple[int, int] | None, where: str) -> tuple[int, int] | None:
    """``size`` (h, w) to which every image is resized, or None to keep each as it is; ``where`` names it in errors.

    Raises:
        InputError: a side is not positive.
    """
    if size is not None and min(size) < 1:
        raise InputError(f"image_size {tuple(size)} is not positive", where, "Use e.g. (32, 32)")
    return None if size is None else (int(size[0]), int(size[1]))
