"""Kinds and ranges of the ``data`` settings, checked before anything is read; not what only the files can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vireo.errors import InputError

from .coco_content import is_vector
from .point_labels import PointSettings

_SIZE = "give width and height, such as [640, 512]"


def check_settings(data: Any, *, train: bool) -> None:
    """Refuse settings of one of the two sets that are of the wrong kind.

    Args:
        data: the ``data`` configuration.
        train: of the training set, else of the evaluation set.

    Raises:
        InputError: the first of them.
    """
    part = "train" if train else "val"
    if data.format == "generated":
        _whole(data, f"{part}_images", 1)
        _whole(data, "seed", 0)
        _pair(data, "image_size", "give height and width, such as [96, 96]")
    elif data.format == "coco":
        remedy = "name the annotation file, relative to data.root"
        if not train:
            remedy += "; for points without boxes, draw the boxes of a few images to validate on"
        _name(data, f"{part}_annotations", remedy)
        _name(data, f"{part}_images", "name the folder of images, relative to data.root")
    else:
        _name(data, f"{part}_split", "name a list of ImageSets/Main, such as trainval")
    for side in ("short_side", "long_side"):
        if data[side] is not None:
            _whole(data, side, 1)
    if data.eval_tile is not None:
        _pair(data, "eval_tile", _SIZE)
    if not train:
        return
    if data.tile is not None:
        _pair(data, "tile", _SIZE)
    _pair(data, "overlap", "give two numbers, such as [100, 100]", least=0)
    box = data.pseudo_box
    if not isinstance(box, str) and not is_numbers(box, 2):
        raise InputError(f"{box} is no width and height", "data.pseudo_box", "give two numbers, such as [16, 16]")
    for name in ("fully_ratio", "min_gt_size"):
        _number(data[name], f"data.{name}")
    _check_points(data.points)


def is_numbers(value: Any, count: int) -> bool:
    """Whether a value of a configuration is a list of so many finite numbers."""
    return isinstance(value, Sequence) and not isinstance(value, str) and is_vector(list(value), count)


def _check_points(points: Any) -> None:
    known = PointSettings.__dataclass_fields__
    if not isinstance(points, Mapping):
        remedy = "set its entries, such as data.points.dist=uniform"
        raise InputError(f"{points!r} is no group of settings", "data.points", remedy)
    for name in points:
        if name not in known:
            raise InputError("there is no such setting", f"data.points.{name}", f"use one of {', '.join(known)}")
    for name in ("mu", "sigma", "size_range"):
        _number(points.get(name, 0.0), f"data.points.{name}")
    if not is_numbers(points.get("at", (0, 0)), 2):
        raise InputError(f"{points['at']} is no point", "data.points.at", "give two fractions, such as [0.5, 0.5]")
    if not isinstance(points.get("masks", False), bool):
        raise InputError(f"{points['masks']!r} is neither", "data.points.masks", "use true or false")
    seed = points.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**32 - 1:
        raise InputError(f"{seed!r} is no seed", "data.points.seed", "give a whole number from 0 to 2**32 - 2")


def _number(value: Any, where: str) -> None:
    if not is_vector([value], 1):
        raise InputError(f"{value!r} is no number", where, "give a number")


def _whole(data: Any, name: str, least: int) -> None:
    if type(data[name]) is not int or data[name] < least:
        raise InputError(f"{data[name]!r} is no whole number from {least}", f"data.{name}", f"use {least} or more")


def _pair(data: Any, name: str, remedy: str, least: int = 1) -> None:
    value = data[name]
    if not is_numbers(value, 2) or not all(type(side) is int and side >= least for side in value):
        raise InputError(f"{value} is not two whole numbers from {least}", f"data.{name}", remedy)


def _name(data: Any, name: str, remedy: str) -> None:
    if not isinstance(data[name], str) or not data[name]:
        raise InputError(f"{data[name]!r} is no name", f"data.{name}", remedy)
