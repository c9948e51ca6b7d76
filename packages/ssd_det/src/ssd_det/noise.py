"""The box-noise protocol of OA-MIL (ECCV 2022), which SSD-Det's experiments use: clean boxes in, inaccurate boxes out.

Every box is moved by up to ``level`` of its size and resized by up to the same share. One seed fixes a whole data set:
the written file has the same bytes on every machine, so its hash names the data a result was obtained on.

    ssd-det-noise --coco instances_train2017.json --out instances_train2017_noise40.json --level 0.4
    ssd-det-noise --voc VOC2007 --split trainval --out voc07_trainval_noise40.json --level 0.4
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from vireo.engine.folder import write_reproducibly
from vireo.engine.text import two_columns
from vireo.errors import InputError

from .quality import paired_iou

OFFICIAL_SEED = 45
"""The seed of the authors' generator."""


@dataclass(frozen=True)
class NoiseStatistics:
    """What the noise did to a set of boxes."""

    level: float
    seed: int
    boxes: int
    """Perturbed boxes, those kept clean included; crowd boxes are not among them."""
    kept_clean: int
    """Boxes whose perturbed version had no area inside the image, so that the clean one was kept."""
    crowd: int
    """Crowd (COCO) or difficult (VOC) boxes, passed on unchanged."""
    dropped: int
    """Annotations the protocol leaves out; see :func:`add_noise`."""
    mean_iou: float
    """Mean IoU of noisy and true boxes."""
    share_iou_above_half: float
    """Share of noisy boxes whose IoU with the true one exceeds 0.5."""


@dataclass(frozen=True)
class NoiseReport(NoiseStatistics):
    """:class:`NoiseStatistics` and the file they belong to."""

    path: str
    sha256: str
    skipped: tuple[str, ...] = ()
    """One line for every record that the reader left out (``on_error="skip"``)."""

    def table(self) -> str:
        """Two aligned columns, one line per entry, then the skipped records."""
        rows = asdict(self) | {"skipped": len(self.skipped)}
        return "\n".join([two_columns(rows), *(f"  {line}" for line in self.skipped)])


def perturb_boxes(
    boxes: np.ndarray, image_sizes: np.ndarray | Sequence, level: float, rng: np.random.RandomState
) -> np.ndarray:
    """Noisy versions of ``boxes``.

    Four numbers u1..u4 uniform in [-level, level) are drawn per box, in this order, box after box. The centre moves by
    (u1 w, u2 h), the size becomes (w (1 + u3), h (1 + u4)), and the corners are clamped to x1, y1 >= 0,
    x2 <= W - 1, y2 <= H - 1. A box that is empty after that is returned as it came, unclamped; its draws are used up.

    Args:
        boxes: (N, 4) xyxy in pixels of the original image.
        image_sizes: (N, 2) or (2,), (H, W) of each box's image.
        level: noise level r in [0, 1); the paper uses 0.1 to 0.4.
        rng: numpy's legacy generator, whose stream the protocol is defined on; its state advances by 4 N draws.

    Returns:
        (N, 4) float32 xyxy.

    Raises:
        InputError: ``level`` outside [0, 1), or ``boxes`` not (N, 4).
    """
    return _perturb(boxes, image_sizes, level, rng)[0]


def _perturb(
    boxes: np.ndarray, image_sizes: np.ndarray | Sequence, level: float, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`perturb_boxes` and the (N,) mask of boxes kept clean."""
    if not 0 <= level < 1:
        raise InputError(
            f"noise level {level} lies outside [0, 1)", "level", "Give a share of the box size, such as 0.4"
        )
    clean = np.asarray(boxes, dtype=np.float32)
    if clean.ndim != 2 or clean.shape[1] != 4:
        raise InputError(f"boxes of shape {clean.shape}", "perturb_boxes", "Give an array (N, 4) of x1, y1, x2, y2")
    corners = clean.astype(np.float64)
    u = rng.uniform(-level, level, corners.shape)
    size = corners[:, 2:] - corners[:, :2]
    centre = corners[:, :2] + 0.5 * size + u[:, :2] * size
    half = 0.5 * size * (1 + u[:, 2:])
    limit = np.broadcast_to(np.asarray(image_sizes, dtype=np.float64), (len(corners), 2))[:, ::-1] - 1
    top_left = np.maximum(centre - half, 0)
    bottom_right = np.minimum(centre + half, limit)
    noisy = np.concatenate([top_left, bottom_right], axis=1).astype(np.float32)
    empty = np.any(noisy[:, 2:] <= noisy[:, :2], axis=1)
    return np.where(empty[:, None], clean, noisy), empty


def add_noise(coco: Mapping[str, Any], level: float, seed: int = OFFICIAL_SEED) -> dict[str, Any]:
    """A COCO annotation dict whose boxes are noisy.

    Images are visited in the order of ``coco["images"]``, the annotations of an image in file order, as pycocotools
    lists them. Left out are annotations with ``ignore`` set, outside their image, with area <= 0, or with a side below
    one pixel; crowd boxes stay as they are and take no draws.

    Args:
        coco: ``images`` (with ``id``, ``width``, ``height``), ``annotations`` (``bbox`` xywh pixels), ``categories``.
        level: noise level in [0, 1).
        seed: seed of the whole file.

    Returns:
        A new dict. ``annotations`` keep their order and fields; ``bbox`` is noisy, ``true_bbox`` the original. The
        entry ``noise`` holds the :class:`NoiseStatistics`. ``coco`` itself is not changed.

    Raises:
        InputError: a record that cannot be used, no box at all, or boxes that are noisy already.
    """
    return _add_noise(coco, level, seed, "annotations")[0]


def make_noisy_coco(
    json_in: str | os.PathLike[str], json_out: str | os.PathLike[str], level: float, seed: int = OFFICIAL_SEED
) -> NoiseReport:
    """Read a COCO json, :func:`add_noise`, and write the result with the same bytes for the same input, level and seed.

    The file appears complete or not at all.

    Raises:
        InputError: unreadable or unfit input, ``json_out`` not writable or the same file as ``json_in``.
    """
    source, target = Path(json_in), Path(json_out)
    if source.resolve() == target.resolve():
        raise InputError("output and input are the same file", str(target), "Choose another output name")
    return _write(*_add_noise(_read_json(source), level, seed, str(source)), target)


def make_noisy_voc(
    root: str | os.PathLike[str],
    split: str,
    json_out: str | os.PathLike[str],
    level: float,
    seed: int = OFFICIAL_SEED,
    *,
    on_error: Literal["raise", "skip"] = "raise",
) -> NoiseReport:
    """Read one split of a Pascal VOC folder and write its noisy boxes as a COCO json.

    Difficult objects become crowd annotations and are not perturbed. Coordinates count from zero, as in the devkit.

    Args:
        root: folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.
        split: name of a list there, such as ``"trainval"``.
        json_out, level, seed: as in :func:`make_noisy_coco`.
        on_error: ``"skip"`` leaves out records that cannot be used instead of stopping at the first.

    Raises:
        InputError: as :func:`make_noisy_coco`.
    """
    from vireo.data import VocDetection  # imports torch, which noise itself does not need

    dataset = VocDetection(Path(root), split, on_error=on_error)
    report = _write(*_add_noise(dataset.coco(), level, seed, f"{root} ({split})"), Path(json_out))
    return replace(report, skipped=tuple(dataset.skipped))


def _add_noise(coco: Mapping[str, Any], level: float, seed: int, where: str) -> tuple[dict[str, Any], NoiseStatistics]:
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed} lies outside [0, 2**32)", "seed", "Give a small non-negative integer")
    sizes = _image_sizes(coco, where)
    annotations = coco["annotations"]
    image, boxes = _boxes(annotations, {image_id: k for k, image_id in enumerate(sizes)}, where)
    hw = np.array(list(sizes.values())).reshape(-1, 2)[image]
    kept = _usable(annotations, boxes, hw)
    crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=bool)
    order = np.flatnonzero(kept & ~crowd)
    order = order[np.argsort(image[order], kind="stable")]  # images as listed, annotations of an image as in the file
    if not len(order):
        raise InputError("there is no box to perturb", where, "Give the file with the training annotations")
    clean = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)[order]
    rng = np.random.RandomState(seed)
    noisy, kept_clean = _perturb(clean, hw[order], level, rng)
    iou = paired_iou(noisy, clean)

    corners = noisy.astype(np.float64)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(5).tolist()
    changed = {}
    for position, bbox, is_clean in zip(order.tolist(), xywh, kept_clean.tolist()):
        true_bbox = annotations[position]["bbox"]
        changed[position] = {
            **annotations[position],
            "bbox": true_bbox if is_clean else bbox,
            "true_bbox": true_bbox,
        }
    statistics = NoiseStatistics(
        level=float(level),
        seed=int(seed),
        boxes=len(order),
        kept_clean=int(kept_clean.sum()),
        crowd=int((kept & crowd).sum()),
        dropped=int((~kept).sum()),
        mean_iou=round(float(iou.mean()), 6),
        share_iou_above_half=round(float((iou > 0.5).mean()), 6),
    )
    result = {
        **coco,
        "annotations": [changed.get(k, annotations[k]) for k in np.flatnonzero(kept).tolist()],
        "noise": asdict(statistics),
    }
    return result, statistics


def _image_sizes(coco: Mapping[str, Any], where: str) -> dict[Any, tuple[float, float]]:
    """Image id -> (H, W), in file order."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(coco, Mapping) or not isinstance(coco.get(key), list):
            raise InputError(f"no list {key!r}", where, "Give an annotation file in COCO's object-detection format")
    sizes: dict[Any, tuple[float, float]] = {}
    for position, image in enumerate(coco["images"]):
        record = f"{where}: image {position}"
        try:
            image_id, height, width = image["id"], float(image["height"]), float(image["width"])
        except (KeyError, TypeError, ValueError):
            raise InputError("id, height or width is missing", record, "Add them to the record") from None
        if not (0 < height < np.inf and 0 < width < np.inf):
            raise InputError(f"size {width} x {height} is not positive", record, "Correct the record")
        if image_id in sizes:
            raise InputError(f"image id {image_id} occurs twice", record, "Give every image an id of its own")
        sizes[image_id] = (height, width)
    return sizes


def _boxes(
    annotations: Sequence[Mapping[str, Any]], index: Mapping[Any, int], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Image index (A,) and box (A, 4) float64 xywh of every annotation; the first unfit record is an InputError."""
    try:
        image = np.array([index[annotation["image_id"]] for annotation in annotations], dtype=np.int64)
        boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
        fit = len(boxes) == len(annotations) and np.isfinite(boxes).all()
        if fit and not any("true_bbox" in annotation for annotation in annotations):
            return image, boxes
    except (KeyError, TypeError, ValueError):
        pass  # found again below, with its name
    for position, annotation in enumerate(annotations):
        _check(annotation, index, position, where)
    raise AssertionError("a record that is unfit passed its check")


def _check(annotation: Any, index: Mapping[Any, int], position: int, where: str) -> None:
    record = f"{where}: annotation {annotation.get('id', position) if isinstance(annotation, Mapping) else position}"
    try:
        image_id, box = annotation["image_id"], np.asarray(annotation["bbox"], dtype=np.float64)
        known = image_id in index
    except (KeyError, TypeError, ValueError):
        raise InputError("image_id or a bbox of four numbers is missing", record, "Correct or remove it") from None
    if not known:
        raise InputError(f"no image has the id {image_id}", record, "Add the image or remove the annotation")
    if box.shape != (4,) or not np.isfinite(box).all():
        raise InputError(f"bbox {annotation['bbox']} is not four finite numbers", record, "Correct or remove it")
    if "true_bbox" in annotation:
        raise InputError("the boxes are noisy already (true_bbox is present)", record, "Start from the clean file")


def _usable(annotations: Sequence[Mapping[str, Any]], boxes: np.ndarray, hw: np.ndarray) -> np.ndarray:
    """Mask (A,) of the annotations the protocol keeps; ``boxes`` (A, 4) xywh, ``hw`` (A, 2) of their images."""
    size = boxes[:, 2:]
    overlap = np.minimum(boxes[:, :2] + size, hw[:, ::-1]) - np.maximum(boxes[:, :2], 0)
    given = np.array([annotation.get("area", np.nan) for annotation in annotations], dtype=np.float64)
    area = np.where(np.isnan(given), size.prod(axis=1), given)
    ignored = np.array([bool(annotation.get("ignore", False)) for annotation in annotations], dtype=bool)
    return ~ignored & (overlap > 0).all(axis=1) & (area > 0) & (size >= 1).all(axis=1)


def _read_json(path: Path) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number JSON knows")

    try:
        return json.loads(path.read_bytes(), parse_constant=refuse)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", str(path), "Check the path") from None
    except ValueError as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise InputError(f"not valid JSON ({error})", str(path), "It may be cut short: fetch it again") from None


def _write(coco: dict[str, Any], statistics: NoiseStatistics, path: Path) -> NoiseReport:
    return NoiseReport(**asdict(statistics), path=str(path), sha256=write_reproducibly(coco, path))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd-det-noise", description="Write annotations whose boxes are noisy by the OA-MIL protocol (COCO json)."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", metavar="JSON", help="clean annotations in COCO format")
    source.add_argument("--voc", metavar="ROOT", help="Pascal VOC folder with Annotations/ and ImageSets/Main/")
    parser.add_argument("--split", default="trainval", help="image list of the VOC folder (default: %(default)s)")
    parser.add_argument("--out", metavar="JSON", required=True, help="file to write")
    parser.add_argument("--level", type=float, required=True, help="noise level in [0, 1), e.g. 0.4")
    parser.add_argument("--seed", type=int, default=OFFICIAL_SEED, help="seed of the file (default: %(default)s)")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="unusable VOC records (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``ssd-det-noise``; returns the exit status (2 for input the user can mend)."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.coco is not None:
            report = make_noisy_coco(arguments.coco, arguments.out, arguments.level, arguments.seed)
        else:
            report = make_noisy_voc(
                arguments.voc,
                arguments.split,
                arguments.out,
                arguments.level,
                arguments.seed,
                on_error=arguments.on_error,
            )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(report.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
