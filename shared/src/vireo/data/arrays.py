"""Data sets of images of one size that stay on the device, and what makes :class:`Loader` deliver the same form.

A batch is ``(images, targets)``: images ``uint8 (B, 3, H, W)`` until a device transform makes them float, targets a
dict of tensors whose first dimension is B, with ``key`` int64 ``(B,)``, :func:`~vireo.data.random.counter_key` of
(seed, epoch, index), among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from vireo.data.classification import ClassificationDataset
from vireo.data.random import counter_keys
from vireo.data.sampler import EpochSampler
from vireo.errors import InputError

Targets = dict[str, Tensor]
BatchTransform = Callable[[Any, Any], tuple[Any, Any]]


def stack_classification(images: Sequence[Tensor], targets: Sequence[dict[str, Any]]) -> tuple[Tensor, Targets]:
    """Make one batch of lists: the first device transform of a :class:`~vireo.data.loader.Loader` of one image size.

    Returns:
        Images ``(B, 3, H, W)`` of the dtype they had, and the tensors among the targets' fields, stacked. Other fields
        are left out: ``index`` says which image it is.

    Raises:
        InputError: images of several sizes.
    """
    sizes = sorted({(image.shape[-2], image.shape[-1]) for image in images})
    if len(sizes) > 1:
        what = f"images of {len(sizes)} sizes (h, w) in one batch, e.g. {sizes[0]} and {sizes[-1]}"
        raise InputError(what, "stack_classification", "Give the data set an image_size or the loader a transform")
    fields = [field for field, value in targets[0].items() if isinstance(value, Tensor)]
    return torch.stack(list(images)), {field: torch.stack([target[field] for target in targets]) for field in fields}


class ArrayLoader:
    """Batches gathered on the device from images and targets that were moved there once.

    Order, keys and the share of each process are those of :class:`~vireo.data.loader.Loader`. On CUDA an epoch's order
    and keys are one copy at its beginning; no batch waits for the host.

    Args:
        images: uint8 ``(N, 3, H, W)``.
        targets: tensors ``(N, ...)``; ``index`` (0 to N - 1) is added where it is missing.
        batch_size: samples in a global batch, over all processes.
        shuffle, seed, rank, world_size, drop_last: see :class:`~vireo.data.sampler.EpochSampler`.
        device_transform: maps ``(images, targets)`` of a batch to what is delivered, e.g.
            ``Compose(RandomCrop(), HorizontalFlip(), Normalize())``.
        device: where images and targets are kept and batches are made.

    Attributes:
        skipped: messages on images that the data set left out.

    Raises:
        InputError: targets of another length than the images.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Targets,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        device_transform: BatchTransform | None = None,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        for field, value in targets.items():
            if len(value) != len(images):
                what = f"{len(value)} values for {len(images)} images"
                raise InputError(what, f"target {field!r}", "Give every target one value per image")
        self.sampler = EpochSampler(
            len(images),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )
        self.device = torch.device(device)
        self.device_transform = device_transform
        self.images = images.to(self.device)
        whole = {"index": torch.arange(len(images)), **targets}
        self.targets = {field: value.to(self.device) for field, value in whole.items()}
        self.skipped: list[str] = []

    @classmethod
    def of(cls, dataset: ClassificationDataset, **settings: Any) -> Self:
        """The loader of a whole data set, decoded now; ``settings`` are the arguments by name.

        Raises:
            InputError: see :meth:`~vireo.data.classification.ClassificationDataset.arrays`.
        """
        images = dataset.arrays()  # first: it may leave out images that cannot be read
        loader = cls(images, {"label": torch.from_numpy(dataset.labels)}, **settings)
        loader.skipped = list(dataset.skipped)
        return loader

    def __len__(self) -> int:
        """Batches of an epoch on this process."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Batches ``start``, ``start + 1``, ... of ``epoch``: ``(images, targets)`` after the device transform."""
        slices = self.sampler.batches(epoch, start)
        if not slices:
            return
        order = np.concatenate(slices)
        numbers = torch.from_numpy(np.stack((order, counter_keys(self.sampler.seed, epoch, order))))
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()
        numbers = numbers.to(self.device, non_blocking=True)
        for index, key in (part.unbind() for part in numbers.split([len(part) for part in slices], dim=1)):
            images = self.images.index_select(0, index)
            targets = {field: value.index_select(0, index) for field, value in self.targets.items()}
            targets["key"] = key
            yield (images, targets) if self.device_transform is None else self.device_transform(images, targets)
