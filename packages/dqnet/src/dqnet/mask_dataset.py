"""What data sets of images with one mask each have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vireo.data.records import Sample


class MaskDataset(Dataset[Sample]):
    """Base of the data sets of binary segmentation.

    A sample is ``(image, target)``: image ``uint8 (3, H, W)`` RGB; target a dict with ``mask``, ``uint8 (H, W)`` as it
    is stored, 0 to 255, and ``index``, an int64 scalar, the position in this data set.

    Attributes:
        sources: int64 ``(N,)``, the position of each sample in the data set that this one is a subset of.
        skipped: what was left out with ``on_error="skip"``, one line each.
        notes: what else is worth knowing about the files, one line each.
    """

    def __init__(self, length: int, *, skipped: Iterable[str] = (), notes: Iterable[str] = ()) -> None:
        self.sources = np.arange(length)
        self.skipped, self.notes = list(skipped), list(notes)

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The name of sample ``index``, that of its file without folder and suffix."""
        return f"{self.sources[index]:06d}"

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Sample:
        image, mask = self.load(index)
        return image, {"mask": mask, "index": torch.tensor(index)}

    def with_indices(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The samples ``indices`` in that order, as a data set whose ``index`` starts from 0 again."""
        other = copy(self)
        other.sources = self.sources[np.asarray(indices, dtype=np.int64)]
        other.skipped, other.notes = list(self.skipped), list(self.notes)
        return other
