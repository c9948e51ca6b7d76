"""Detection data sets whose images are files of one folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from vireo.data.decode import decode_image
from vireo.data.header import read_header
from vireo.data.records import DetectionDataset, DetectionRecord, OnError, find_faults
from vireo.errors import InputError


class FileDataset(DetectionDataset):
    """A detection data set whose images are files of one folder."""

    def __init__(
        self,
        images_dir: str | Path,
        classes: Sequence[str],
        category_ids: Sequence[int],
        records: list[DetectionRecord],
        *,
        on_error: OnError = "raise",
        skipped: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> None:
        super().__init__(classes, category_ids, records, skipped=skipped, notes=notes)
        self.images_dir = Path(images_dir)
        self.on_error = on_error

    def image_path(self, index: int) -> Path:
        """The image file of sample ``index``."""
        return self.images_dir / self.records[index].file_name

    def load_image(self, index: int) -> Tensor:
        """Decode the image of sample ``index``.

        Raises:
            InputError: the file is missing, damaged, too large, or not of the size its record says.
        """
        path = self.image_path(index)
        image = decode_image(path)
        self._check_size(index, path, (image.shape[1], image.shape[2]))
        return image

    def check_images(self, workers: int = 4, decode: bool = False) -> None:
        """Open every image before training: the header must be readable and agree with the record in size.

        With ``on_error="skip"`` bad images leave ``records`` and are listed in ``skipped``; call it before a loader is
        built.

        Args:
            workers: threads.
            decode: decode the pixels too, which also finds files cut off in the middle.

        Raises:
            InputError: for the first bad image, with ``on_error="raise"``.
        """

        def check(index: int) -> None:
            if decode:
                self.load_image(index)
            else:
                path = self.image_path(index)
                self._check_size(index, path, read_header(path).size)

        bad = find_faults(check, len(self), self.on_error, workers)
        self.records = [record for i, record in enumerate(self.records) if i not in bad]
        self.skipped = [*self.skipped, *(f"{error.where}: {error.what}" for error in bad.values())]

    def _check_size(self, index: int, path: Path, size: tuple[int, int]) -> None:
        expected = self.image_size(index)
        if size != expected:
            what = f"image is {size[1]}x{size[0]} pixels, its annotation says {expected[1]}x{expected[0]}"
            raise InputError(what, str(path), "Correct the annotation's size and boxes, or set data.on_error=skip")


def list_files(folder: Path, names: Iterable[str]) -> set[str]:
    """Those of ``names`` (relative to ``folder``) that are there, by one listing per folder rather than a stat each."""
    present: set[str] = set()
    for parent in {os.path.dirname(name) for name in names}:
        try:
            present.update(os.path.join(parent, name) for name in os.listdir(folder / parent))
        except OSError:
            continue  # the names in it count as missing
    return present
