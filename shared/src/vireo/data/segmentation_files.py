"""Segmentation data in two folders: images, and label maps of the same names whose pixels are class indices."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vireo.data.decode import decode_image, read_encoded
from vireo.data.header import parse_header, read_header
from vireo.data.image_files import IMAGE_SUFFIXES
from vireo.data.records import FaultLog, OnError, find_faults, note
from vireo.data.segmentation import IGNORE, SegmentationDataset
from vireo.errors import InputError

CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "cyclist",
)
CAMVID_VOID = 11
ADE20K_CLASSES = 150
_REMEDY = "Correct the file, or set data.on_error=skip"


class ImageLabelFolders(SegmentationDataset):
    """Images ``root/images/*`` and label maps ``root/labels/*.png`` of the same names but for the suffix.

    Samples are in the order of their sorted names. A label map has one channel, of numbers or of a palette's indices;
    it is checked when it is read: that it has the size of its image, that its labels are known, and that some pixel
    counts.

    Args:
        root: what the folders are relative to.
        images, labels: the two folders.
        classes: names by label, at most 255.
        reduce_zero_label: 0 in the files does not count, and 1 is the first class.
        ignore: further numbers in the files that do not count; 255 never does.
        suffix: of the label maps.
        on_error: ``"raise"`` at the first fault, or ``"skip"``: leave out an image without label map or a label map
            without image, and with :meth:`check_images` any bad file, and list it in ``skipped``. When single samples
            are asked for, the loader's ``on_error`` decides.

    Raises:
        InputError: a folder is missing, no pair, or with ``on_error="raise"`` a file without partner.
    """

    def __init__(
        self,
        root: str | Path,
        images: str,
        labels: str,
        classes: Sequence[str],
        *,
        reduce_zero_label: bool = False,
        ignore: Iterable[int] = (),
        suffix: str = ".png",
        on_error: OnError = "raise",
    ) -> None:
        self.images_dir, self.labels_dir, self.suffix = Path(root) / images, Path(root) / labels, suffix
        faults = FaultLog(on_error)
        files, others = _by_stem(self.images_dir, IMAGE_SUFFIXES)
        maps, _ = _by_stem(self.labels_dir, (suffix.lower(),))
        for stem in sorted(files.keys() ^ maps.keys()):
            if stem in files:
                path, missing = self.images_dir / files[stem], f"label map {stem}{suffix} in {self.labels_dir}"
            else:
                path, missing = self.labels_dir / maps[stem], f"image {stem}.* in {self.images_dir}"
            faults.report(f"there is no {missing}", str(path), "Add it or remove this file, or set data.on_error=skip")
        stems = sorted(files.keys() & maps.keys())
        if not stems:
            what = f"no image has a label map (*{suffix}) of its name in {self.labels_dir}"
            raise InputError(what, str(self.images_dir), "Correct data.root or the names of the folders")
        self._files = np.array([files[stem] for stem in stems])
        self._maps = np.array([maps[stem] for stem in stems])
        self._table = _label_table(len(classes), reduce_zero_label, ignore, str(root))
        notes = note(f"entries of {self.images_dir} are no images and were left alone", others)
        super().__init__(len(stems), classes, on_error=on_error, skipped=faults.lines, notes=notes)

    @classmethod
    def ade20k(cls, root: str | Path, split: str, on_error: OnError = "raise") -> Self:
        """ADE20K (ADEChallengeData2016): ``images/{training,validation}``, ``annotations/...``; 0 does not count.

        The names of the 150 classes are read from ``objectInfo150.txt`` where it is there.
        """
        return cls(
            root,
            f"images/{split}",
            f"annotations/{split}",
            _ade20k_classes(Path(root) / "objectInfo150.txt"),
            reduce_zero_label=True,
            on_error=on_error,
        )

    @classmethod
    def camvid(cls, root: str | Path, split: str, on_error: OnError = "raise") -> Self:
        """CamVid: ``images/{train,val,test}``, ``labels/...``; 11 classes, the number 11 does not count."""
        folders = f"images/{split}", f"labels/{split}"
        return cls(root, *folders, CAMVID_CLASSES, ignore=(CAMVID_VOID,), on_error=on_error)

    def image_path(self, index: int) -> Path:
        """The image file of sample ``index``."""
        return self.images_dir / str(self._files[self.sources[index]])

    def label_path(self, index: int) -> Path:
        """The label map of sample ``index``."""
        return self.labels_dir / str(self._maps[self.sources[index]])

    def name(self, index: int) -> str:
        """The path of the image."""
        return str(self.image_path(index))

    def load_image(self, index: int) -> Tensor:
        """Decode the image of sample ``index``.

        Raises:
            InputError: the file is missing, damaged or too large.
        """
        return decode_image(self.image_path(index))

    def load_labels(self, index: int) -> Tensor:
        """Decode the label map of sample ``index``.

        Raises:
            InputError: the file is missing, damaged, in colours, of another size than the image, without a pixel that
                counts, or with a label that is no class.
        """
        path = self.label_path(index)
        numbers = read_label_map(path)
        self._check_size(index, (numbers.shape[0], numbers.shape[1]))
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self._table)):
            raise self._unknown(int(numbers.min() if numbers.min() < 0 else numbers.max()), path)
        found = self._table[numbers]
        if (found < 0).any():
            raise self._unknown(int(numbers[found < 0][0]), path)
        labels = torch.from_numpy(found.astype(np.uint8))
        if bool((labels == IGNORE).all()):
            raise InputError("label map has no pixel that counts", str(path), _REMEDY)
        return labels

    def check_images(self, workers: int = 4, decode: bool = False) -> None:
        """Open every pair before training: both headers must be readable and agree in size.

        With ``on_error="skip"`` bad pairs leave the data set and are listed in ``skipped``; call it before a loader is
        built.

        Args:
            workers: threads.
            decode: decode the pixels too, which also checks the labels.

        Raises:
            InputError: for the first bad file, with ``on_error="raise"``.
        """

        def check(index: int) -> None:
            if decode:
                self.load_image(index), self.load_labels(index)
            else:
                self._check_size(index, read_header(self.label_path(index)).size)

        bad = find_faults(check, len(self), self.on_error, workers)
        self.sources = self.sources[np.setdiff1d(np.arange(len(self)), list(bad))]
        self.skipped += [f"{error.where}: {error.what}" for error in bad.values()]
        if not len(self):
            raise InputError("no pair can be read", self.skipped[0], "Point the configuration to readable files")

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        expected = read_header(self.image_path(index)).size
        if size != expected:
            what = f"label map is {size[1]}x{size[0]} pixels, its image {expected[1]}x{expected[0]}"
            raise InputError(what, str(self.label_path(index)), _REMEDY)

    def _unknown(self, number: int, path: Path) -> InputError:
        what = f"label {number} is none of the {len(self.classes)} classes"
        return InputError(what, str(path), "Correct the file or the classes, or set data.on_error=skip")


def read_label_map(path: str | Path) -> np.ndarray:
    """The numbers of a label map: integers ``(H, W)``, those of a palette's entries where it has one.

    Raises:
        InputError: the file is missing, no image, damaged, too large, or has several channels.
    """
    where, data = str(path), read_encoded(path)
    parse_header(data, where)  # bounds what is decoded
    try:
        with Image.open(io.BytesIO(data)) as opened:
            numbers = np.asarray(opened)
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise InputError(f"label map cannot be decoded ({error})", where, _REMEDY) from error
    if numbers.ndim != 2:
        what = f"label map has {numbers.shape[-1]} channels: colours, not class indices"
        raise InputError(what, where, "Save one channel of class indices (0 to 255), or set data.on_error=skip")
    return numbers.astype(np.int32) if numbers.dtype != np.uint8 else numbers


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """File names with one of ``suffixes`` by stem, and the other names; those that start with a dot are ignored."""
    if not folder.is_dir():
        raise InputError("there is no such folder", str(folder), "Correct data.root or the name of the split")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    files = {Path(name).stem: name for name in names if name.lower().endswith(suffixes)}
    return files, sorted(set(names) - set(files.values()))


def _label_table(number: int, reduce_zero: bool, ignore: Iterable[int], where: str) -> np.ndarray:
    """What each number in a file means: int16 ``(256,)`` of labels, 255 for those that do not count, -1 unknown."""
    if not 1 <= number <= IGNORE:
        raise InputError(f"{number} classes", where, f"Give 1 to {IGNORE}")
    table = np.full(256, -1, np.int16)
    table[reduce_zero : number + reduce_zero] = np.arange(number)[: 256 - reduce_zero]
    table[[*ignore, IGNORE, *([0] if reduce_zero else [])]] = IGNORE
    return table


def _ade20k_classes(file: Path) -> tuple[str, ...]:
    """Names from the fifth column of the data set's table; without that file, numbers."""
    if not file.is_file():
        return tuple(f"class {number}" for number in range(1, ADE20K_CLASSES + 1))
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    names = tuple(row[-1].split(",")[0].strip() for row in rows)
    if len(names) != ADE20K_CLASSES:
        raise InputError(f"names {len(names)} classes, not {ADE20K_CLASSES}", str(file), "Restore the file")
    return names
