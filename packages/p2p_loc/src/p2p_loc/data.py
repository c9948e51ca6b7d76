"""The data of a run: generated people, COCO or VOC, with coarse points instead of boxes on the training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vireo.data import (
    Compose,
    Loader,
    NormalizePad,
    RandomHorizontalFlip,
    ResizeShortSide,
    VocDetection,
    aspect_ratio_groups,
)
from vireo.data.image_sets import VAL_SEED
from vireo.data.transforms import Transform
from vireo.errors import InputError

from .coco_content import Content, check_content, read_content, select_classes, true_box
from .data_settings import check_settings
from .point_labels import Labels, LabelStatistics, PointSettings, TileSettings, make_labels
from .tile_dataset import CachedImages, FolderImages, GeneratedImages, Images, TileDataset, check_images

FORMATS = ("generated", "coco", "voc")


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained on: the first labels, and the way from any later ones to a data set.

    Attributes:
        content: COCO dict A0: ``images`` (perhaps tiles with a ``corner``), ``annotations`` with ``point``, ``bbox``
            (the pseudo box) and, where known, ``true_bbox``.
        images: where the pictures are.
        settings: the ``data`` configuration.
        statistics: of the labels, or None where the file had them.
        skipped: what ``on_error=skip`` left out, one line each.
        notes: what was filtered, one line each.
    """

    content: dict[str, Any]
    images: Images
    settings: Any
    statistics: LabelStatistics | None = None
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Category id by class index."""
        return tuple(sorted(row["id"] for row in self.content["categories"]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by class index."""
        names = {row["id"]: row["name"] for row in self.content["categories"]}
        return tuple(names[number] for number in self.category_ids)

    def dataset(self, content: Mapping[str, Any] | None = None, *, train: bool) -> TileDataset:
        """The images with the labels of ``content``.

        Args:
            content: A0 or what refinement made of it; None: A0.
            train: for training, with its filters; else every image or tile, for prediction.
        """
        labels = self.content if content is None else content
        data = self.settings
        return TileDataset(
            self.images,
            labels,
            train=train,
            drop_ignore=data.drop_ignore,
            min_gt_size=data.min_gt_size,
            skipped=self.skipped,
            notes=self.notes,
        )


def build_sets(data: Any) -> tuple[TrainingData, TileDataset]:
    """Training data and evaluation set of a ``data`` configuration.

    Raises:
        InputError: different classes, or as :func:`build_training` and :func:`build_evaluation_set`.
    """
    train, val = build_training(data), build_evaluation_set(data)
    if (train.classes, train.category_ids) != (val.classes, val.category_ids):
        what = f"training classes {list(train.classes)} differ from evaluation classes {list(val.classes)}"
        raise InputError(what, f"data.format={data.format}", "use annotation files with the same categories")
    return train, val


def build_training(data: Any) -> TrainingData:
    """The training data of a ``data`` configuration.

    A file whose annotations have ``point`` and ``bbox`` (made by ``p2p-points``) is taken as it is; ``points``,
    ``pseudo_box`` and ``fully_ratio`` then do not apply, which ``notes`` says.

    Raises:
        InputError: an unknown format, no ``root``, settings that make no sense, a ``tile`` where such a file has whole
            images, or what the readers find in the files.
    """
    (content, skipped), images = _read(data, train=True)
    rows = content["annotations"]
    if data.labels == "points" and rows and all("point" in row and "bbox" in row for row in rows):
        return TrainingData(content, images, data, None, list(skipped), _taken(content, data))
    made = _labels(content, data)
    return TrainingData(made.content, images, data, made.statistics, list(skipped), _notes(made.statistics))


def build_evaluation_set(data: Any) -> TileDataset:
    """The evaluation set of a ``data`` configuration: whole images with their true boxes.

    ``truth`` of the data set is the ground truth with all flags of the file; boxes without width or height are left
    out of it.

    Raises:
        InputError: as :func:`build_training`; or annotations without true boxes (a ``bbox`` beside a ``point``
            is a label).
    """
    (content, skipped), images = _read(data, train=False)
    rows = []
    for row in content["annotations"]:
        box = true_box(row)
        if box is None:
            what = f"annotation {row['id']} of the evaluation set has no box of the object"
            remedy = "evaluate on annotations with bbox and no point, or with true_bbox: draw boxes in a few images"
            raise InputError(what, f"data.format={data.format}", remedy)
        if min(box[2:]) > 0:
            rows.append({**row, "bbox": list(box)})
    flat = len(content["annotations"]) - len(rows)
    notes = [f"{flat} boxes without width or height left out of the evaluation set"] if flat else []
    return TileDataset(images, {**content, "annotations": rows}, skipped=skipped, notes=notes)


def build_loader(
    dataset: TileDataset,
    data: Any,
    *,
    train: bool,
    seed: int = 0,
    device: Any = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """Batches of normalised images, zero-padded to a multiple of 32, on the device.

    Training batches are shuffled, of one orientation, and flipped with probability ``data.flip``. The targets are
    those of ``DetectionDataset``; boxes are in pixels of the resized image.
    """
    sizes = np.array([dataset.image_size(i) for i in range(len(dataset))])
    return Loader(
        dataset,
        batch_size=data.batch_size if train else data.eval_batch_size * world_size,
        shuffle=train,
        seed=seed,
        transform=_transform(data, train),
        device_transform=NormalizePad(),
        device=device,
        workers=data.workers,
        rank=rank,
        world_size=world_size,
        drop_last=train,
        groups=aspect_ratio_groups(sizes) if train else None,
        on_error=data.on_error,
    )


def _read(data: Any, train: bool) -> tuple[Content, Images]:
    """Annotations and pictures of one of the two sets."""
    if data.format not in FORMATS:
        raise InputError(f"unknown format {data.format!r}", "data.format", f"use one of {', '.join(FORMATS)}")
    check_settings(data, train=train)
    if data.format == "generated":
        from .people import GeneratedPeople

        length, seed = (data.train_images, data.seed) if train else (data.val_images, data.seed + VAL_SEED)
        people = GeneratedPeople(length, seed=seed, image_size=tuple(data.image_size))
        return check_content(people.coco(), "generated people"), CachedImages(GeneratedImages(people))
    root = _root(data)
    name = data.train_annotations if train else data.get("val_annotations")
    if data.format == "voc" and not name:
        split = data.train_split if train else data.val_split
        dataset = VocDetection(root, split, on_error=data.on_error)
        images = FolderImages(dataset.images_dir)
        found = check_content(dataset.coco(), f"{root} ({split})", data.on_error)
        found = Content(found.content, (*dataset.skipped, *found.skipped))
    else:
        folder = "JPEGImages" if data.format == "voc" else data.train_images if train else data.val_images
        images = FolderImages(root / folder)
        found = read_content(root / name, data.on_error)
    content = select_classes(found.content, data.classes, "data.classes")
    content, bad = check_images(images, content, data.check_images, data.on_error)
    return Content(content, (*found.skipped, *bad)), CachedImages(images)


def _labels(content: Mapping[str, Any], data: Any) -> Labels:
    points = {**data.points, "at": tuple(data.points["at"])}
    tiles = None
    if data.tile is not None:
        tiles = TileSettings(tuple(data.tile), tuple(data.overlap), data.tile_policy)
    size: Any = data.pseudo_box if isinstance(data.pseudo_box, str) else tuple(data.pseudo_box)
    return make_labels(
        content,
        points=PointSettings(**points),
        pseudo_box=size,
        tiles=tiles,
        fully_ratio=data.fully_ratio,
        labels=data.labels,
        where="training set",
    )


def _taken(content: Mapping[str, Any], data: Any) -> list[str]:
    """What to know of a file that has labels.

    Raises:
        InputError: its images are whole, and ``tile`` would have them cut.
    """
    if data.tile is not None and not any("corner" in image for image in content["images"]):
        what = f"the annotations have labels already, of whole images, which cannot be cut into tiles of {data.tile}"
        remedy = "cut them when the labels are made (p2p-points --tile W H), or set data.tile=null"
        raise InputError(what, "data.tile", remedy)
    notes = ["the annotations have labels already: data.points, pseudo_box and fully_ratio do not apply to them"]
    if "refinement" in content:
        notes.append("these labels were refined before; the limits of refinement begin at them, not at the points")
    return notes


def _notes(found: LabelStatistics) -> list[str]:
    reasons = {
        "annotations without area, or outside of their image, left out": found.unusable,
        "objects left out: their point is too near to the border, or beyond it": found.dropped,
    }
    return [f"{count} {reason}" for reason, count in reasons.items() if count]


def _transform(data: Any, train: bool) -> Transform | None:
    if (data.short_side is None) != (data.long_side is None):
        what = "only one of data.short_side and data.long_side is given"
        raise InputError(what, "data", "give both to resize images, or neither")
    steps: list[Any] = []
    if data.short_side is not None:
        steps.append(ResizeShortSide(data.short_side, data.long_side))
    if train and data.flip > 0:
        steps.append(RandomHorizontalFlip(data.flip))
    return Compose(*steps) if steps else None


def _root(data: Any) -> Path:
    if not data.root:
        raise InputError("no folder given", "data.root", "add data.root=/path/to/the/data")
    root = Path(data.root)
    if not root.is_dir():
        raise InputError("no such folder", f"data.root={root}", "point data.root to the folder that holds the data")
    return root
