"""Which samples make up which batch of an epoch, on which process."""

from __future__ import annotations

import numpy as np

from vireo.data.random import counter_keys
from vireo.errors import InputError


def aspect_ratio_groups(sizes: np.ndarray) -> np.ndarray:
    """Group 0 for landscape or square images, 1 for portrait ones.

    Args:
        sizes: (n, 2) heights and widths.

    Returns:
        int64 (n,), to be given to :class:`EpochSampler` so that one batch is padded to one orientation.
    """
    sizes = np.asarray(sizes).reshape(-1, 2)
    return (sizes[:, 0] > sizes[:, 1]).astype(np.int64)


class EpochSampler:
    """Global batches of an epoch as a function of (seed, epoch), and the slice of each that one process takes.

    The batches do not depend on the number of processes: the concatenation of the slices of all ranks is the batch
    that a single process sees. A full batch is cut into equal slices; a partial last batch into slices that differ by
    at most one sample, so without shuffling and dropping (evaluation) the shards differ by at most one and share
    nothing. In training a last batch with fewer samples than processes is left out on all of them, because ranks must
    take equally many steps.

    Args:
        length: number of samples.
        batch_size: samples in a global batch, over all processes; a multiple of ``world_size``.
        shuffle: a new order every epoch; otherwise 0, 1, 2, ...
        seed: seed of the orders.
        rank: this process, in [0, world_size).
        world_size: number of processes.
        drop_last: leave out a partial last batch.
        groups: integers (length,); a batch is drawn from one group as long as the group can fill it (aspect-ratio
            grouping). What remains of the groups is mixed at the end, so the number of batches stays the same.

    Raises:
        InputError: a batch size that the processes cannot share, or fewer samples than one training batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        groups: np.ndarray | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise InputError(
                f"a global batch of {batch_size} cannot be shared equally by {world_size} processes",
                "batch_size",
                f"use a positive multiple of {world_size}",
            )
        smallest = batch_size if drop_last else world_size if shuffle else 0
        if length < smallest:
            raise InputError(
                f"{length} samples do not make one training batch of {batch_size} for {world_size} processes",
                "batch_size",
                f"give at least {smallest} samples, or use smaller batches or fewer processes",
            )
        if groups is not None and len(groups) != length:
            raise ValueError(f"groups has {len(groups)} entries for {length} samples")
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        self.groups = None if groups is None else np.asarray(groups)

    @property
    def training(self) -> bool:
        """Whether all ranks must see equally many batches."""
        return self.shuffle or self.drop_last

    def __len__(self) -> int:
        """Batches of an epoch on this rank: the same on every rank in training."""
        full, rest = divmod(self.length, self.batch_size)
        if self.drop_last or rest == 0:
            return full
        if self.training:
            return full + (rest >= self.world_size)
        return full + (self.rank < rest)  # np.array_split serves the first ranks first

    def order(self, epoch: int) -> np.ndarray:
        """The samples of ``epoch`` in order, before batches are formed: int64 (length,)."""
        indices = np.arange(self.length)
        if not self.shuffle:
            return indices
        # ~epoch keeps the order apart from the augmentation keys, which belong to the epochs 0, 1, 2, ...
        return np.argsort(counter_keys(self.seed, ~epoch, indices), kind="stable")

    def global_batches(self, epoch: int) -> list[np.ndarray]:
        """All batches of ``epoch`` over all processes, a partial last one included unless ``drop_last``."""
        order = self.order(epoch)
        if self.groups is not None:
            order = self._fill_from_groups(order)
        full = self.length // self.batch_size * self.batch_size
        batches = list(order[:full].reshape(-1, self.batch_size))
        if full < self.length and not self.drop_last:
            batches.append(order[full:])
        return batches

    def batches(self, epoch: int, start: int = 0) -> list[np.ndarray]:
        """This rank's slices of the batches ``start``, ``start + 1``, ... of ``epoch``: int64 index arrays."""
        batches = self.global_batches(epoch)
        slices = [np.array_split(batch, self.world_size)[self.rank] for batch in batches[: len(self)]]
        return slices[start:]

    def _fill_from_groups(self, order: np.ndarray) -> np.ndarray:
        """Reorder so that full batches of one group come first, as they complete, and the groups' remainders last."""
        assert self.groups is not None
        group_of = self.groups[order]
        full, completed, rest = [], [], []
        for group in np.unique(group_of):
            places = np.flatnonzero(group_of == group)
            cut = len(places) // self.batch_size * self.batch_size
            filled = places[:cut].reshape(-1, self.batch_size)
            full.append(filled)
            completed.append(filled[:, -1])
            rest.append(places[cut:])
        by_completion = np.argsort(np.concatenate(completed), kind="stable")
        places = np.concatenate([np.concatenate(full)[by_completion].ravel(), np.sort(np.concatenate(rest))])
        return order[places]
