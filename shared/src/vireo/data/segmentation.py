"""Semantic segmentation data sets: an image, and for each of its pixels a class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vireo.data.generated import GeneratedShapes
from vireo.data.records import FaultLog, OnError, Sample

IGNORE = 255


class SegmentationDataset(Dataset[Sample]):
    """Base of the segmentation data sets.

    A sample is ``(image, target)``: image ``uint8 (3, H, W)`` RGB; target a dict with ``labels``, ``uint8 (H, W)`` of
    class indices from 0 and 255 for pixels that do not count, ``index``, an int64 scalar, the position in this data
    set, and ``image_id``, an int, the position in the data set that this one is a subset of.

    Attributes:
        classes: class names by label.
        sources: int64 ``(N,)``, the ``image_id`` of each sample.
        skipped: images left out with ``on_error="skip"``, one line each.
        notes: what else is worth knowing about the files, one line each.
    """

    def __init__(
        self,
        length: int,
        classes: Sequence[str],
        *,
        on_error: OnError = "raise",
        skipped: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> None:
        self.on_error = FaultLog(on_error).on_error
        self.classes = tuple(classes)
        self.sources = np.arange(length)
        self.skipped, self.notes = list(skipped), list(notes)

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, H, W)`` RGB."""
        raise NotImplementedError

    def load_labels(self, index: int) -> Tensor:
        """``uint8 (H, W)``, see the class."""
        raise NotImplementedError

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and labels."""
        return self.load_image(index), self.load_labels(index)

    def name(self, index: int) -> str:
        """How messages name sample ``index``."""
        return f"sample {index}"

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Sample:
        image, labels = self.load(index)
        return image, {"labels": labels, "index": torch.tensor(index), "image_id": int(self.sources[index])}

    def with_indices(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The samples ``indices`` in that order, as a data set whose ``index`` starts from 0 again."""
        other = copy(self)
        other.sources = self.sources[np.asarray(indices, dtype=np.int64)]
        other.skipped, other.notes = list(self.skipped), list(self.notes)
        return other


class GeneratedSegmentation(SegmentationDataset):
    """Pictures of :class:`~vireo.data.GeneratedShapes` with the class of each pixel: background, or a kind of shape.

    Args:
        length, image_size, seed, **shapes: as there.
    """

    def __init__(self, length: int, image_size: tuple[int, int] = (64, 64), seed: int = 0, **shapes: Any) -> None:
        self.shapes = GeneratedShapes(length, image_size, seed, **shapes)
        super().__init__(length, ("background", *self.shapes.classes))

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Picture and labels, ``uint8 (H, W)``: 0 is the background."""
        return self.shapes.semantic(int(self.sources[index]))

    def load_image(self, index: int) -> Tensor:
        """The picture."""
        return self.load(index)[0]

    def load_labels(self, index: int) -> Tensor:
        """The labels."""
        return self.load(index)[1]
