"""The sets of camouflaged object detection, found below a folder (section 5.1 of the notes).

Found are the packaged archives (``TrainDataset/{Imgs,GT}``, ``TestDataset/<set>/{Imgs or Image,GT}``) and those of the
sets' own authors (``CAMO-V.1.0-CVIU2019/{Images/{Train,Test},GT}``, ``COD10K-v3/{Train,Test}/{Image,GT_Object}``), at
most three folders deep and in any case of letters. Of COD10K only the files ``COD10K-CAM-*`` are taken, which show a
camouflaged object. CAMO's folder of masks holds those of training and test; the others are left alone.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

from vireo.data.records import FaultLog, OnError, note
from vireo.errors import InputError

from .mask_files import MaskFolders, Pairs, pair_folders

TRAIN_COUNTS = {"CAMO": 1000, "COD10K": 3040}
TEST_COUNTS = {"CAMO": 250, "CHAMELEON": 76, "COD10K": 2026, "NC4K": 4121}
TEST_SETS = tuple(TEST_COUNTS)
SOURCES = {
    "CAMO": "CAMO is published by its authors (Le et al., 2019), also in the packaged COD archives of SINet-V2's",
    "CHAMELEON": "CHAMELEON is published by the Silesian University, also in the packaged COD archives of SINet-V2",
    "COD10K": "COD10K is published by the authors of SINet, also in their packaged COD archives",
    "NC4K": "NC4K is published by the authors of Rank-Net (Lv et al., 2021)",
}
_DEPTH = 3
_CAMOUFLAGED = "COD10K-CAM"


@dataclass(frozen=True)
class _Layout:
    """Where a set lies: its folder's name as a pattern, and in it the folders of images and of masks; lower case."""

    folder: str
    images: tuple[str, ...]
    masks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.folder}/{{{self.images[0]}, {self.masks[0]}}}"


_IMAGES = ("imgs", "image", "images")
_MERGED = _Layout("traindataset*", _IMAGES, ("gt",))
_TRAIN = {
    "CAMO": _Layout("camo*", ("images/train",), ("gt",)),
    "COD10K": _Layout("cod10k*", ("train/image", "train/imgs"), ("train/gt_object", "train/gt")),
}
_TEST = {
    "CAMO": (_Layout("camo*", ("images/test",), ("gt",)), _Layout("camo*", _IMAGES, ("gt",))),
    "CHAMELEON": (_Layout("chameleon*", _IMAGES, ("gt",)),),
    "COD10K": (
        _Layout("cod10k*", ("test/image", "test/imgs"), ("test/gt_object", "test/gt")),
        _Layout("cod10k*", _IMAGES, ("gt", "gt_object")),
    ),
    "NC4K": (_Layout("nc4k*", _IMAGES, ("gt",)),),
}


def cod_train(root: str | Path, on_error: OnError = "raise") -> Pairs:
    """The training set below ``root``: 1,000 pairs of CAMO and 3,040 of COD10K, in one folder or in two.

    Images of the same bytes are noted and kept, as the published set has them.

    Raises:
        InputError: there is no such set or, with ``on_error="raise"``, it is not whole.
    """
    folders = _folders(Path(root))
    if (merged := _find(folders, _MERGED)) is not None:
        pairs = pair_folders(*merged, spare_masks=True, on_error=on_error)
        cod10k = [pair for pair in pairs.files if pair[0].name.startswith("COD10K-")]
        camouflaged = [pair for pair in cod10k if pair[0].name.startswith(_CAMOUFLAGED)]
        parts = {"CAMO": Pairs(sorted(set(pairs.files) - set(cod10k))), "COD10K": Pairs(camouflaged)}
        left = sorted(image.name for image, _ in set(cod10k) - set(camouflaged))
        notes = [*pairs.notes, *note("images of COD10K show nothing camouflaged and were left alone", left)]
        return _joined(parts, on_error, str(merged[0]), pairs.skipped, notes)
    found = {name: _find(folders, layout) for name, layout in _TRAIN.items()}
    if missing := [name for name, place in found.items() if place is None]:
        looked_for = " and ".join(str(_TRAIN[name]) for name in missing)
        what = f"no training set: neither {_MERGED} nor {looked_for} is there"
        raise InputError(what, str(root), "; ".join(SOURCES[name] for name in missing))
    parts = {name: _part(name, place, on_error) for name, place in found.items() if place is not None}
    return _joined(parts, on_error, str(root))


def build_cod_train(
    camo_dir: str | Path, cod10k_dir: str | Path, on_error: OnError = "raise", workers: int = 4
) -> MaskFolders:
    """The 4,040 training pairs of CAMO's and COD10K's own folders, checked for number and sizes.

    Args:
        camo_dir: holds ``Images/Train`` and ``GT``, or the training images alone in ``Imgs`` and ``GT``.
        cod10k_dir: holds ``Train/Image`` and ``Train/GT_Object``, or ``Image`` and ``GT_Object`` (or ``GT``).
        on_error: ``"raise"`` at the first fault, or ``"skip"``: take what is there; ``skipped`` and ``notes`` tell.
        workers: threads that read the sizes.

    Raises:
        InputError: no such folders or, with ``on_error="raise"``, other numbers of pairs, or a mask of another size.
    """
    parts = {}
    for name, folder in (("CAMO", Path(camo_dir)), ("COD10K", Path(cod10k_dir))):
        own, plain = _TRAIN[name], _Layout("*", _IMAGES, ("gt", "gt_object"))
        place = _place(folder, own) or _place(folder, plain)
        if place is None:
            what = f"no {name} here: there is neither {{{own.images[0]}, {own.masks[0]}}} nor {{imgs, gt}}"
            raise InputError(what, str(folder), SOURCES[name])
        parts[name] = _part(name, place, on_error)
    dataset = MaskFolders(_joined(parts, on_error, f"{camo_dir} and {cod10k_dir}"), on_error)
    dataset.check_images(workers)
    return dataset


def cod_test(root: str | Path, name: str, on_error: OnError = "raise") -> Pairs:
    """A test set below ``root``.

    Args:
        root: of all sets.
        name: one of ``TEST_SETS``.
        on_error: see :func:`cod_train`.

    Raises:
        InputError: no such set or, with ``on_error="raise"``, it is not whole.
    """
    if name not in TEST_COUNTS:
        raise InputError(f"unknown test set {name!r}", "data.test_set", f"use one of {', '.join(TEST_SETS)}")
    place = _test_place(_folders(Path(root)), name)
    if place is None:
        what = f"no test set {name}: there is no {' or '.join(map(str, _TEST[name]))}"
        raise InputError(what, str(root), SOURCES[name])
    pairs = pair_folders(*place, prefix=_prefix(name), spare_masks=True, on_error=on_error)
    faults = FaultLog(on_error)
    _check_count(name, len(pairs.files), TEST_COUNTS[name], str(place[0]), faults)
    return Pairs(pairs.files, pairs.skipped, [*pairs.notes, *faults.lines])


def available_test_sets(root: str | Path) -> list[str]:
    """The names of the test sets that are below ``root``."""
    folders = _folders(Path(root))
    return [name for name in TEST_SETS if _test_place(folders, name) is not None]


def identical_images(files: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files of the same bytes; only files of the same length are read."""
    by_length: dict[int, list[Path]] = defaultdict(list)
    for path in files:
        by_length[path.stat().st_size].append(path)
    first: dict[str, Path] = {}
    same = []
    for path in (path for paths in by_length.values() if len(paths) > 1 for path in paths):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest in first:
            same.append((first[digest], path))
        first.setdefault(digest, path)
    return same


def _prefix(name: str) -> str:
    return _CAMOUFLAGED if name == "COD10K" else ""


def _part(name: str, place: tuple[Path, Path], on_error: OnError) -> Pairs:
    return pair_folders(*place, prefix=_prefix(name), spare_masks=True, on_error=on_error)


def _joined(
    parts: dict[str, Pairs], on_error: OnError, where: str, skipped: Sequence[str] = (), notes: Sequence[str] = ()
) -> Pairs:
    """One training set of its parts, counted and looked through for duplicates."""
    faults = FaultLog(on_error)
    for name, part in parts.items():
        _check_count(name, len(part.files), TRAIN_COUNTS[name], where, faults)
    files = sorted((pair for part in parts.values() for pair in part.files), key=lambda pair: pair[0].name)
    twice = [f"{second} is {first.name}" for first, second in identical_images(image for image, _ in files)]
    told = [line for part in parts.values() for line in part.notes]
    return Pairs(
        files,
        [*skipped, *(line for part in parts.values() for line in part.skipped)],
        [*notes, *told, *faults.lines, *note("images are the same as others, byte for byte", twice)],
    )


def _check_count(name: str, count: int, published: int, where: str, faults: FaultLog) -> None:
    if count != published:
        remedy = "complete the folder, or set data.on_error=skip to use what is there"
        faults.report(f"{count} pairs of {name}, published are {published}", where, remedy)


def _folders(root: Path) -> list[Path]:
    """``root`` and the folders below it, nearest first."""
    if not root.is_dir():
        raise InputError("there is no such folder", str(root), "correct data.root")
    found, level = [root], [root]
    for _ in range(_DEPTH):
        level = [path for parent in level for path in _inside(parent)]
        found += level
    return found


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; its files, of which there may be thousands, cost no call each."""
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_dir())


def _find(folders: Sequence[Path], layout: _Layout) -> tuple[Path, Path] | None:
    """Folders of images and masks of the first set of a layout."""
    for folder in folders:
        if fnmatch(folder.resolve().name.lower(), layout.folder) and (place := _place(folder, layout)) is not None:
            return place
    return None


def _test_place(folders: Sequence[Path], name: str) -> tuple[Path, Path] | None:
    root = folders[0]
    tests = [
        folder
        for folder in folders
        if not any(part.lower().startswith("train") for part in folder.relative_to(root).parts)
    ]
    places = (_find(tests, layout) for layout in _TEST[name])
    return next((place for place in places if place is not None), None)


def _place(folder: Path, layout: _Layout) -> tuple[Path, Path] | None:
    for images, masks in product(layout.images, layout.masks):
        image_dir, mask_dir = _below(folder, images), _below(folder, masks)
        if image_dir is not None and mask_dir is not None:
            return image_dir, mask_dir
    return None


def _below(folder: Path, relative: str) -> Path | None:
    """The folder at a relative path in lower case, whatever the case of its letters."""
    for part in relative.split("/"):
        if (found := next((path for path in _inside(folder) if path.name.lower() == part), None)) is None:
            return None
        folder = found
    return folder
