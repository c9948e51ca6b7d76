"""Classification data sets: one class per image, and labels and positions known before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vireo.data.records import FaultLog, OnError, Sample
from vireo.errors import InputError

_CHUNK = 64  # images a thread decodes in one go


class ClassificationDataset(Dataset[Sample]):
    """Base of the classification data sets: labels, and a way to the pixels of each image.

    A sample is ``(image, target)``: image ``uint8 (3, H, W)`` RGB; target a dict with ``label`` and ``index``, int64
    scalars, and ``image_id``, an int. ``index`` is the position in this data set, 0 to ``len - 1``: the row of a memory
    bank. ``image_id`` is the position in the data set that this one is a subset of.

    Attributes:
        classes: class names by label.
        labels: int64 ``(N,)``.
        sources: int64 ``(N,)``, the ``image_id`` of each sample.
        skipped: images left out with ``on_error="skip"``, one line each.
        notes: what else is worth knowing about the files, one line each.
    """

    def __init__(
        self,
        classes: Sequence[str],
        labels: np.ndarray,
        *,
        on_error: OnError = "raise",
        notes: Iterable[str] = (),
    ) -> None:
        self.on_error = FaultLog(on_error).on_error
        self.classes = tuple(classes)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.sources = np.arange(len(self.labels))
        self.skipped: list[str] = []
        self.notes = list(notes)

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, H, W)`` RGB."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """How messages name sample ``index``."""
        return f"sample {index}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        target = {
            "label": torch.tensor(self.labels[index]),
            "index": torch.tensor(index),
            "image_id": int(self.sources[index]),
        }
        return self.load_image(index), target

    def with_indices(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The samples ``indices`` in that order, as a data set whose ``index`` starts from 0 again."""
        kept = np.asarray(indices, dtype=np.int64)
        other = copy(self)
        other.labels, other.sources = self.labels[kept], self.sources[kept]
        other.skipped, other.notes = list(self.skipped), list(self.notes)
        return other

    def arrays(self, workers: int = 4) -> Tensor:
        """All images, ``uint8 (N, 3, H, W)`` in order; N is ``len(self)`` after the call.

        With ``on_error="skip"`` an image that cannot be read leaves the data set, as by :meth:`check_images`, so that
        ``labels`` and ``index`` match the result: read them afterwards.

        Args:
            workers: threads that decode.

        Raises:
            InputError: images of several sizes, none at all, or with ``on_error="raise"`` one that cannot be read.
        """
        if not len(self):
            raise InputError("the data set is empty", type(self).__name__, "Choose at least one image")
        images: Tensor | None = None
        faults: dict[int, InputError] = {}
        kept = 0
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            starts = range(0, len(self), _CHUNK)
            try:
                for start, chunk in zip(starts, pool.map(self._load_chunk, starts)):
                    for index, image in enumerate(chunk, start):
                        if isinstance(image, InputError):
                            self._judge(index, image, faults)
                            continue
                        if images is None:
                            images = torch.empty(len(self), *image.shape, dtype=torch.uint8)
                        if image.shape != images.shape[1:]:
                            raise _sizes_differ(image, images, self.name(index))
                        images[kept] = image
                        kept += 1
            finally:
                pool.shutdown(cancel_futures=True)
        self._leave_out(faults)
        if images is None:
            raise InputError("no image can be read", self.skipped[0], "Point the configuration to readable images")
        return images[:kept]

    def _load_chunk(self, start: int) -> list[Tensor | InputError]:
        """Images from ``start`` on; in the place of one that cannot be read its error."""
        chunk: list[Tensor | InputError] = []
        for index in range(start, min(start + _CHUNK, len(self))):
            try:
                chunk.append(self.load_image(index))
            except InputError as error:
                chunk.append(error)
        return chunk

    def _judge(self, index: int, error: InputError, faults: dict[int, InputError]) -> None:
        if self.on_error == "raise":
            raise error
        faults[index] = error

    def _leave_out(self, faults: dict[int, InputError]) -> None:
        if faults:
            kept = np.setdiff1d(np.arange(len(self)), list(faults))
            self.labels, self.sources = self.labels[kept], self.sources[kept]
            self.skipped += [f"{error.where}: {error.what}" for error in faults.values()]


_Dataset = TypeVar("_Dataset", bound=ClassificationDataset)


def per_class(dataset: _Dataset, count: int, seed: int | None = None) -> _Dataset:
    """A balanced subset: the first ``count`` images of each class, or with a ``seed`` any ``count``, in their order.

    Raises:
        InputError: a class has fewer images.
    """
    chosen = []
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero(dataset.labels == label)
        if not 1 <= count <= len(members):
            what = f"{count} images per class cannot be had: class {name!r} has {len(members)}"
            raise InputError(what, type(dataset).__name__, "Ask for fewer, but at least one")
        if seed is not None:
            members = np.random.default_rng((seed, label)).permutation(members)
        chosen.append(members[:count])
    return dataset.with_indices(np.sort(np.concatenate(chosen)))


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``uint8 (..., 3, H, W)`` to ``size`` (h, w).

    Where both sides shrink by whole factors each result is the mean of its box of pixels, rounded half up; otherwise
    torchvision's antialiased bilinear filter is used.
    """
    (height, width), (new_height, new_width) = images.shape[-2:], size
    if (height, width) == (new_height, new_width):
        return images
    if height % new_height or width % new_width:
        from torchvision.transforms.v2 import functional as F

        resized: Tensor = F.resize_image(images, [new_height, new_width], antialias=True)
        return resized
    rows, columns = height // new_height, width // new_width
    total: Tensor = images.unflatten(-1, (new_width, columns)).sum(-1, dtype=torch.int32)
    total = total.unflatten(-2, (new_height, rows)).sum(-2)
    area = rows * columns
    return total.add_(area // 2).div_(area, rounding_mode="floor").to(torch.uint8)


def _sizes_differ(image: Tensor, images: Tensor, where: str) -> InputError:
    (height, width), (first_height, first_width) = image.shape[-2:], images.shape[-2:]
    what = f"image of {width}x{height} pixels among images of {first_width}x{first_height}"
    return InputError(what, where, "Give the data set an image_size, or use Loader, whose transform makes one size")
