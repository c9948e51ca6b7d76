"""The data of pre-training runs: every image of a set, whatever is known of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from omegaconf import OmegaConf
from torch import Tensor

from vireo.data.classification import ClassificationDataset
from vireo.data.image_sets import build_dataset
from vireo.data.segmentation import SegmentationDataset
from vireo.data.segmentation_sets import segmentation_set


def pretraining_set(data: Any, *, train: bool) -> ClassificationDataset:
    """One of the sets of a data configuration: every image, whatever its class.

    Args:
        data: as of :func:`~vireo.data.build_dataset`; or ``format: shapes`` and what is said of generated pictures in
            :func:`~vireo.data.segmentation_set`, for these pictures without their labels.
        train: which of the two.

    Raises:
        InputError: see there.
    """
    if data.format == "shapes":
        return Pictures(segmentation_set(OmegaConf.merge(data, {"format": "generated"}), train=train))
    return build_dataset(data, train=train, labels=False)


class Pictures(ClassificationDataset):
    """The images of a segmentation set, without their labels.

    Args:
        dataset: the set.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        super().__init__(("picture",), np.zeros(len(dataset), np.int64))
        self.dataset = dataset

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, H, W)`` RGB."""
        return self.dataset.load_image(int(self.sources[index]))
