"""Saved maps of any method against masks, folder by folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from vireo.data.decode import decode_image
from vireo.data.image_files import IMAGE_SUFFIXES
from vireo.data.records import OnError
from vireo.errors import InputError

from .mask_files import read_mask
from .metric_parts import ImageScores, image_scores
from .metrics import dataset_scores, processors

_SKIP = "or leave such files out with --on-error skip"
_LISTED = 3  # names in a message, at most


@dataclass(frozen=True)
class ScoredFolder:
    """Scores of a folder of maps.

    Attributes:
        metrics: of the folder, see :meth:`dqnet.metrics.SegmentationMetrics.compute`.
        images: scores by name.
        skipped: what was left out, one line each.
    """

    metrics: dict[str, float]
    images: dict[str, ImageScores]
    skipped: list[str]


def score_folder(
    pred: str | Path,
    mask: str | Path,
    *,
    resize: bool = False,
    on_error: OnError = "raise",
    workers: int | None = None,
    progress: bool = False,
) -> ScoredFolder:
    """Score the maps of a folder against the masks of the same names in another.

    Args:
        pred: folder of maps; suffixes need not be those of the masks.
        mask: folder of masks.
        resize: maps of another size to that of their mask, bilinearly; else such maps are an error.
        on_error: ``raise``, or ``skip``: leave out and list what has no partner or cannot be used.
        workers: threads that read and score; None: one for each processor.
        progress: show it on the terminal.

    Raises:
        InputError: a folder is missing, no map has a mask or, with ``on_error="raise"``, a file is at fault.
    """
    pairs, skipped = pair_maps(Path(pred), Path(mask), on_error)
    images: dict[str, ImageScores] = {}
    with ThreadPoolExecutor(processors() if workers is None else max(workers, 1)) as pool:
        tasks = {name: pool.submit(_score_files, *files, resize) for name, files in pairs.items()}
        for name, task in track(tasks.items(), str(pred), console=Console(stderr=True), disable=not progress):
            try:
                images[name] = task.result()
            except InputError as error:  # its remedy speaks of training
                if on_error == "raise":
                    pool.shutdown(cancel_futures=True)
                    raise InputError(error.what, error.where, f"correct the file, {_SKIP}") from error
                skipped.append(f"{error.where}: {error.what}")
    if not images:
        raise InputError("no map could be scored", str(pred), f"correct the files: {skipped[-1]}")
    return ScoredFolder(dataset_scores(list(images.values())), images, skipped)


def pair_maps(pred: Path, mask: Path, on_error: OnError = "raise") -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Files of maps and masks by name, sorted, and what was left out.

    Raises:
        InputError: a folder is missing or nothing fits; with ``on_error="raise"`` also names without partner, or that
            two files of a folder have.
    """
    skipped: list[str] = []

    def fault(what: str, folder: Path, remedy: str) -> None:
        if on_error == "raise":
            raise InputError(what, str(folder), f"{remedy}, {_SKIP}")
        skipped.append(f"{folder}: {what}")

    maps: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for folder, files in ((pred, maps), (mask, masks)):
        if not folder.is_dir():
            raise InputError("there is no such folder", str(folder), "correct --pred, --mask or --set")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                if path.stem in files:
                    fault(f"{path.name} and {files[path.stem].name} have one name", folder, "remove one of them")
                files.setdefault(path.stem, path)
    names = sorted(maps.keys() & masks.keys())
    if not names:
        what = f"none of its {len(maps)} images has the name of one of the {len(masks)} in {mask}"
        raise InputError(what, str(pred), "correct --pred, --mask or --set, or rename the files")
    for folder, files, kind, other in ((mask, masks, "masks", "map"), (pred, maps, "maps", "mask")):
        if alone := sorted(files.keys() - set(names)):
            listed = ", ".join(alone[:_LISTED]) + (", ..." if len(alone) > _LISTED else "")
            fault(f"{len(alone)} of {len(files)} {kind} have no {other}: {listed}", folder, "complete the folders")
    return {name: (maps[name], masks[name]) for name in names}, skipped


def read_map(path: Path) -> np.ndarray:
    """A grey map, uint8 ``(H, W)``.

    Raises:
        InputError: the file is missing, damaged or too large, or has colours.
    """
    pixels = decode_image(path).numpy()
    if (pixels != pixels[:1]).any():
        raise InputError("map has colours", str(path), "save one channel of grey")
    grey: np.ndarray = pixels[0]
    return grey


def _score_files(pred: Path, mask: Path, resize: bool) -> ImageScores:
    found, truth = read_map(pred), read_mask(mask).numpy()
    if found.shape != truth.shape and not resize:
        size, wanted = (f"{image.shape[1]}x{image.shape[0]}" for image in (found, truth))
        raise InputError(f"map is {size} pixels, its mask {wanted}; --resize fits it", str(pred), "add --resize")
    if found.shape != truth.shape:
        found = cv2.resize(found, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return image_scores(found, truth)
