"""Batches of a segmentation configuration."""

from __future__ import annotations

from typing import Any

from vireo.data import Loader, SegmentationDataset, segmentation_loader
from vireo.data.image_sets import NORMALIZATIONS
from vireo.errors import InputError


def build_loader(dataset: SegmentationDataset, data: Any, train: bool, **here: Any) -> Loader:
    """See :func:`vireo.data.segmentation_loader`; ``data.normalize`` chooses mean and deviation.

    Raises:
        InputError: unknown normalisation, or batches that cannot be made.
    """
    if data.normalize not in NORMALIZATIONS:
        known = ", ".join(NORMALIZATIONS)
        raise InputError(f"unknown normalisation {data.normalize!r}", "data.normalize", f"use one of {known}")
    mean, std = NORMALIZATIONS[data.normalize]
    return segmentation_loader(dataset, data, train, mean, std, **here)
