"""The data of a segmentation run: generated shapes, or image and label folders."""

from __future__ import annotations

from typing import Any

from vireo.data.image_sets import VAL_SEED
from vireo.data.segmentation import GeneratedSegmentation, SegmentationDataset
from vireo.data.segmentation_files import ImageLabelFolders
from vireo.errors import InputError

FORMATS = ("generated", "ade20k", "camvid", "folders")


def segmentation_set(data: Any, *, train: bool) -> SegmentationDataset:
    """Training or evaluation set of a ``data`` configuration.

    Args:
        data: ``format``; for ``generated`` ``train_images``, ``val_images``, ``image_size``, ``object_size``,
            ``class_colours`` and ``seed``; else ``root``, ``train_split``, ``val_split``, ``on_error`` and
            ``check_images``; for ``folders``, which are ``<images>/<split>`` and ``<labels>/<split>``, also ``images``,
            ``labels``, ``classes``, ``reduce_zero_label`` and ``ignore``.
        train: which of the two.

    Raises:
        InputError: an unknown format, no ``root``, or files that cannot be used.
    """
    if data.format not in FORMATS:
        raise InputError(f"unknown format {data.format!r}", "data.format", f"use one of {', '.join(FORMATS)}")
    if data.format == "generated":
        count, seed = (data.train_images, data.seed) if train else (data.val_images, data.seed + VAL_SEED)
        shapes: dict[str, Any] = {"object_size": tuple(data.object_size), "class_colours": data.class_colours}
        return GeneratedSegmentation(count, tuple(data.image_size), seed, **shapes)
    if data.root is None:
        raise InputError("has no value", "data.root", "give the folder of the data with data.root=DIR")
    split = data.train_split if train else data.val_split
    if data.format == "folders":
        if not data.classes:
            raise InputError("has no value", "data.classes", "name the classes in the order of their numbers")
        dataset = ImageLabelFolders(
            data.root,
            f"{data.images}/{split}",
            f"{data.labels}/{split}",
            tuple(data.classes),
            reduce_zero_label=data.reduce_zero_label,
            ignore=tuple(data.ignore),
            on_error=data.on_error,
        )
    else:
        layout = ImageLabelFolders.ade20k if data.format == "ade20k" else ImageLabelFolders.camvid
        dataset = layout(data.root, split, data.on_error)
    if data.check_images not in ("none", "headers", "full"):
        raise InputError(f"{data.check_images!r} is not a choice", "data.check_images", "use none, headers or full")
    if data.check_images != "none":
        dataset.check_images(decode=data.check_images == "full")
    return dataset
