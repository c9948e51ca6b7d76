"""Images and masks in folders, paired by name (section 5.1 of the notes)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

from vireo.data.decode import decode_image
from vireo.data.header import read_header
from vireo.data.image_files import IMAGE_SUFFIXES
from vireo.data.records import FaultLog, OnError, find_faults, note
from vireo.errors import InputError

from .mask_dataset import MaskDataset

_SKIP = "or set data.on_error=skip"


@dataclass(frozen=True)
class Pairs:
    """Files of images and their masks.

    Attributes:
        files: (image, mask), in the order of the samples.
        skipped: what was left out for a fault, one line each.
        notes: what else is worth knowing, one line each.
    """

    files: list[tuple[Path, Path]]
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class MaskFolders(MaskDataset):
    """Images and masks in files.

    A mask has one channel, or three that are equal; alpha is dropped, 16 bits keep their upper byte. Empty masks and
    such that are all foreground are masks like others. A mask is checked when it is read: that it has the size of its
    image, that it has no colours, and that it does not hold class indices 0 and 1 in place of 0 and 255.

    Args:
        pairs: see :func:`pair_folders`.
        on_error: what :meth:`check_images` does with bad files. When single samples are asked for, the loader's
            ``on_error`` decides.
    """

    def __init__(self, pairs: Pairs, on_error: OnError = "raise") -> None:
        self.files, self.on_error = pairs.files, FaultLog(on_error).on_error
        super().__init__(len(pairs.files), skipped=pairs.skipped, notes=pairs.notes)

    @classmethod
    def of(cls, images: str | Path, masks: str | Path, *, on_error: OnError = "raise") -> Self:
        """The pairs of two folders, see :func:`pair_folders`."""
        return cls(pair_folders(images, masks, on_error=on_error), on_error)

    def image_path(self, index: int) -> Path:
        """The image file of sample ``index``."""
        return self.files[self.sources[index]][0]

    def mask_path(self, index: int) -> Path:
        """The mask file of sample ``index``."""
        return self.files[self.sources[index]][1]

    def name(self, index: int) -> str:
        """The stem of the files."""
        return self.image_path(index).stem

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask.

        Raises:
            InputError: a file is missing, damaged or too large, or the mask is none of this image; see the class.
        """
        image, mask = decode_image(self.image_path(index)), read_mask(self.mask_path(index))
        self._check_size(index, (mask.shape[0], mask.shape[1]), (image.shape[1], image.shape[2]))
        return image, mask

    def check_images(self, workers: int = 4, decode: bool = False) -> None:
        """Open every pair before training: both headers must be readable and agree in size.

        With ``on_error="skip"`` bad pairs leave the data set and are listed in ``skipped``; call it before a loader is
        built.

        Args:
            workers: threads.
            decode: decode the pixels too.

        Raises:
            InputError: for the first bad file, with ``on_error="raise"``, or if no pair is left.
        """

        def check(index: int) -> None:
            if decode:
                self.load(index)
            else:
                image, mask = (read_header(path(index)).size for path in (self.image_path, self.mask_path))
                self._check_size(index, mask, image)

        bad = find_faults(check, len(self), self.on_error, workers)
        self.sources = self.sources[np.setdiff1d(np.arange(len(self)), list(bad))]
        self.skipped += [f"{error.where}: {error.what}" for error in bad.values()]
        if not len(self):
            raise InputError("no pair can be read", self.skipped[0], "point the configuration to readable files")

    def _check_size(self, index: int, mask: tuple[int, int], image: tuple[int, int]) -> None:
        if mask != image:
            what = f"mask is {mask[1]}x{mask[0]} pixels, its image {image[1]}x{image[0]}"
            raise InputError(what, str(self.mask_path(index)), f"correct the file, {_SKIP}")


def read_mask(path: str | Path) -> Tensor:
    """A mask as it is stored, ``uint8 (H, W)``.

    Raises:
        InputError: the file is missing, damaged or too large, has colours, or holds 0 and 1 in place of 0 and 255.
    """
    pixels = decode_image(path)
    mask = pixels[0].contiguous()
    if not all(bool((other == mask).all()) for other in pixels[1:]):
        raise InputError("mask has colours", str(path), f"save one channel with 255 in the object, {_SKIP}")
    if int(mask.max()) == 1:
        what = "mask holds 0 and 1: evaluation, where foreground is above 128, takes it for empty"
        raise InputError(what, str(path), f"save 0 and 255, {_SKIP}")
    return mask


def pair_folders(
    images: str | Path,
    masks: str | Path,
    *,
    names: str | Path | None = None,
    prefix: str = "",
    spare_masks: bool = False,
    on_error: OnError = "raise",
) -> Pairs:
    """Pair the files of two folders, which may be the same, by their names without suffix, sorted.

    Suffixes may be written in either case. In a folder of both, PNG files are the masks.

    Args:
        images, masks: the folders.
        names: a text file with one name per line, without suffix; only these are taken.
        prefix: take only files whose name starts so.
        spare_masks: masks without image are noted, not a fault: published folders have such.
        on_error: ``"raise"`` at the first file without partner or name that two files have, or ``"skip"``: leave them
            out (of two files of one name the second) and list them.

    Raises:
        InputError: a folder or the list is missing, no pair, or with ``on_error="raise"`` a fault.
    """
    images, masks, faults = Path(images), Path(masks), FaultLog(on_error)
    same = masks.is_dir() and images.is_dir() and masks.samefile(images)
    suffixes = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix != ".png") if same else IMAGE_SUFFIXES
    listed = None if names is None else _read_names(Path(names))
    pictures, others = _by_stem(images, suffixes, prefix, listed, faults)
    truths, more = _by_stem(masks, (".png",) if same else IMAGE_SUFFIXES, prefix, listed, faults)
    spare = sorted(truths.keys() - pictures.keys())
    for stem in sorted(pictures.keys() - truths.keys()):
        what = f"there is no mask {stem}.* in {masks}"
        faults.report(what, str(images / pictures[stem]), f"add it or remove this file, {_SKIP}")
    if not spare_masks:
        for stem in spare:
            what = f"there is no image {stem}.* in {images}"
            faults.report(what, str(masks / truths[stem]), f"add it or remove this file, {_SKIP}")
    for stem in () if listed is None else [stem for stem in listed if stem not in pictures and stem not in truths]:
        faults.report(f"there is neither image nor mask {stem}.*", str(names), f"correct the list, {_SKIP}")
    stems = sorted(pictures.keys() & truths.keys())
    if not stems:
        what = f"no image{f' {prefix}*' if prefix else ''} has a mask of its name in {masks}"
        raise InputError(what, str(images), "correct data.root or the names of the folders")
    notes = note(f"masks in {masks} have no image and were left alone", spare) if spare_masks else []
    for folder, left in ((images, others), (masks, more)):
        notes += [] if same else note(f"entries of {folder} are no images and were left alone", left)
    return Pairs([(images / pictures[stem], masks / truths[stem]) for stem in stems], faults.lines, notes)


def _by_stem(
    folder: Path, suffixes: tuple[str, ...], prefix: str, listed: Iterable[str] | None, faults: FaultLog
) -> tuple[dict[str, str], list[str]]:
    """File names with one of ``suffixes`` by stem, and the other names; those that start with a dot are ignored."""
    if not folder.is_dir():
        raise InputError("there is no such folder", str(folder), "correct data.root or the names of the folders")
    files: dict[str, str] = {}
    others, wanted = [], None if listed is None else set(listed)
    for name in sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        stem = Path(name).stem
        if not name.lower().endswith(suffixes):
            others.append(name)
        elif name.startswith(prefix) and (wanted is None or stem in wanted):
            if stem in files:
                what = f"{files[stem]} has the same name but for the suffix"
                faults.report(what, str(folder / name), f"remove one of them, {_SKIP}")
            else:
                files[stem] = name
    return files, others


def _read_names(path: Path) -> Sequence[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"list cannot be read ({error})", str(path), "give a text file of one name per line"
        ) from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))
