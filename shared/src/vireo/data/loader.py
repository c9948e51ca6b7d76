"""From a dataset to batches on the device, with the same batches for any number of workers and processes.

Workers decode and transform, and send uint8. Each batch crosses the bus as two pinned buffers (images, targets) on a
side stream, one batch ahead of the consumer; normalisation and other batched arithmetic run there too, on the device.
On a CPU the same code runs without streams and gives the same numbers.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vireo.data.packing import Packed, pack, tensors_of
from vireo.data.random import counter_key, counter_keys, seeded
from vireo.data.sampler import EpochSampler
from vireo.errors import InputError

logger = logging.getLogger(__name__)

Target = dict[str, Any]
Sample = tuple[Tensor, Target]
Batch = tuple[Any, list[Target]]
DeviceTransform = Callable[[list[Tensor], list[Target]], tuple[Any, list[Target]]]
OnError = Literal["raise", "skip"]
_JOB_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


class SampleSource(Protocol):
    """A map-style dataset of ``(image, target)`` samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class _Fetched:
    """What a worker sends for one batch. An error travels as a value, so that it arrives as it was raised."""

    images: Packed | None
    targets: Packed | None
    skipped: list[str]
    error: InputError | None = None

    def pin_memory(self) -> _Fetched:
        if self.images is None or self.targets is None:
            return self
        return _Fetched(self.images.pin_memory(), self.targets.pin_memory(), self.skipped, self.error)


class _Samples:
    """The worker's side: decode and transform the samples of a batch under generators seeded by their keys."""

    def __init__(
        self, dataset: SampleSource, transform: Callable[..., Sample] | None, on_error: OnError, replace: bool
    ) -> None:
        self.dataset, self.transform, self.on_error, self.replace = dataset, transform, on_error, replace

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, requests: list[tuple[int, int]]) -> _Fetched:
        """Fetch the samples named by pairs (index, key); called by torch's DataLoader with a whole batch."""
        skipped: list[str] = []
        try:
            samples = [self.load(index, key, skipped) for index, key in requests]
        except InputError as error:
            return _Fetched(None, None, skipped, error)
        kept = [sample for sample in samples if sample is not None]
        if not kept:
            return _Fetched(None, None, skipped)
        images, targets = (list(part) for part in zip(*kept))
        return _Fetched(pack(images), pack(targets), skipped)

    def load(self, index: int, key: int, skipped: list[str]) -> Sample | None:
        """One transformed sample; None if it is left out. Messages of broken ones are appended to ``skipped``."""
        for distance in range(len(self.dataset)):
            try:
                image, target = self.dataset[(index + distance) % len(self.dataset)]
            except InputError as error:
                if self.on_error == "raise":
                    raise
                skipped.append(str(error))
                if not self.replace:
                    return None
                continue
            target = {**target, "key": torch.tensor(key)}
            if self.transform is None:
                return image, target
            with seeded(key):
                return self.transform(image, target)
        raise InputError("no sample can be read", skipped[0], "point the configuration to readable images")


class _Requests:
    """The batches of one pass as lists of (index, key); persistent workers are handed a new pass by changing it."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler, self.epoch, self.start = sampler, 0, 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for indices in self.sampler.batches(self.epoch, self.start):
            keys = counter_keys(self.sampler.seed, self.epoch, indices)
            yield list(zip(indices.tolist(), keys.tolist()))


def _same(fetched: Any) -> Any:
    return fetched


def _start_worker(_worker_id: int) -> None:
    """One thread of arithmetic per worker, and an end only when the main process says so.

    A terminal or a scheduler signals every process of a job. The main process then saves and ends its workers; if they
    died first, it could not finish its step.
    """
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in _JOB_SIGNALS - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()

    def await_parents_signal() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=await_parents_signal, daemon=True).start()


@contextmanager
def _job_signals_held() -> Iterator[None]:
    """Hold the signals that a whole job gets while workers are started: these, and all their threads, inherit it.

    A signal that arrives meanwhile reaches this process afterwards. Workers never end the hold on SIGTERM; the others
    they ignore, see :func:`_start_worker`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _EpochLoader:
    """What both loaders share: the order of samples and the list of what was skipped."""

    def __init__(
        self, sampler: EpochSampler, device_transform: DeviceTransform | None, device: str | torch.device
    ) -> None:
        self.sampler, self.device_transform, self.device = sampler, device_transform, torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.skipped: list[str] = []

    def __len__(self) -> int:
        """Batches of an epoch on this process."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        raise NotImplementedError

    def _note_skipped(self, messages: Iterable[str]) -> None:
        for message in messages:
            if message not in self.skipped:
                self.skipped.append(message)
                logger.warning("skipped: %s", message)

    def _finish(self, images: list[Tensor], targets: list[Target]) -> Batch:
        return (images, targets) if self.device_transform is None else self.device_transform(images, targets)


class Loader(_EpochLoader):
    """Batches of a map-style dataset on a device.

    Args:
        dataset: gives ``(image, target)`` for an index, without randomness.
        batch_size: samples in a global batch, over all processes.
        shuffle, seed, rank, world_size, drop_last, groups: see :class:`~vireo.data.sampler.EpochSampler`.
        transform: CPU transform of a sample, run in the worker. Whatever it draws from the global generators of torch,
            numpy or python is a function of (seed, epoch, index).
        device_transform: transform of a batch on the device, e.g. :class:`~vireo.data.transforms.NormalizePad`; without
            one, batches hold lists of uint8 images.
        device: where batches are delivered.
        workers: processes that decode; 0 decodes in this one.
        prefetch: batches that each worker prepares ahead.
        on_error: ``"raise"`` ends the pass with the sample's :class:`~vireo.errors.InputError`. ``"skip"`` puts the
            next readable sample in the place of a broken one in training, so that batches keep their size, and leaves
            it out in evaluation; ``skipped`` lists each such message once.

    Every target carries ``key``, an int64 scalar: :func:`~vireo.data.random.counter_key` of (seed, epoch, index).
    """

    def __init__(
        self,
        dataset: SampleSource,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        transform: Callable[..., Sample] | None = None,
        device_transform: DeviceTransform | None = None,
        device: str | torch.device = "cpu",
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        groups: np.ndarray | None = None,
        prefetch: int = 2,
        on_error: OnError = "raise",
    ) -> None:
        if workers < 0:
            raise InputError(f"{workers} processes", "data.workers", "use 0 (decode in this one) or more")
        sampler = EpochSampler(
            len(dataset),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            groups=groups,
        )
        super().__init__(sampler, device_transform, device)
        self.dataset = dataset
        self._requests = _Requests(sampler)
        self._passes = 0
        self._data_loader: DataLoader[Any] = DataLoader(
            _Samples(dataset, transform, on_error, replace=sampler.training),  # type: ignore[arg-type]
            batch_sampler=self._requests,
            collate_fn=_same,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch if workers > 0 else None,
            worker_init_fn=_start_worker,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # torch draws a seed per pass: not from the run's own generator
        )

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, ... of ``epoch``; those before are not decoded.

        Yields:
            ``(images, targets)`` on the device: what the device transform makes of them.

        Raises:
            InputError: a sample cannot be read and ``on_error`` is ``"raise"``.
            RuntimeError: this iterator was continued after a newer one of the same loader had begun.
        """
        fetched = self._fetch(epoch, start)
        if self.device.type == "cuda":
            return self._one_ahead(fetched)
        return (self._deliver(images, targets) for images, targets in fetched)

    def _fetch(self, epoch: int, start: int) -> Iterator[tuple[Packed, Packed]]:
        self._passes += 1
        this_pass = self._passes
        self._requests.epoch, self._requests.start = epoch, start
        with _job_signals_held():
            fetched_batches = iter(self._data_loader)
        for fetched in fetched_batches:
            self._note_skipped(fetched.skipped)
            if fetched.error is not None:
                try:
                    raise fetched.error from None
                finally:
                    del fetched  # or the error, its traceback and this frame would keep the workers alive
            if fetched.images is not None:
                yield fetched.images, fetched.targets
            if this_pass != self._passes:  # torch keeps one set of persistent workers, which the newer pass now has
                raise RuntimeError("this pass ended when a newer pass of the same loader began")

    def _deliver(self, images: Packed, targets: Packed) -> Batch:
        return self._finish(images.unpack(self.device), targets.unpack(self.device))

    def _one_ahead(self, fetched: Iterator[tuple[Packed, Packed]]) -> Iterator[Batch]:
        """Copy and transform on a side stream; a batch is handed over when the next one is under way."""
        stream = torch.cuda.Stream(self.device)
        ready: tuple[Batch, torch.cuda.Event] | None = None
        for images, targets in fetched:
            with torch.cuda.stream(stream):
                batch = self._deliver(images, targets)
                copied = stream.record_event()
            if ready is not None:
                yield self._hand_over(*ready)
            ready = (batch, copied)
        if ready is not None:
            yield self._hand_over(*ready)

    def _hand_over(self, batch: Batch, copied: torch.cuda.Event) -> Batch:
        """Let the consumer's stream wait for the batch, and keep its memory until that stream has used it."""
        consumer = torch.cuda.current_stream(self.device)
        consumer.wait_event(copied)
        for tensor in tensors_of(batch):
            if tensor.is_cuda:
                tensor.record_stream(consumer)
        return batch


class DeviceResidentLoader(_EpochLoader):
    """The batches of :class:`Loader` for a data set that fits on the device: decoded once, indexed there.

    Images must have one size, if need be by ``transform``, which runs once per sample at construction: leave random
    augmentation to ``device_transform``. Order, keys and handling of broken samples are those of :class:`Loader`.
    Targets are views of resident memory: transforms and models must not change them in place.

    Raises:
        InputError: images of several sizes, or a broken sample with ``on_error="raise"``.
    """

    def __init__(
        self,
        dataset: SampleSource,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        transform: Callable[..., Sample] | None = None,
        device_transform: DeviceTransform | None = None,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        on_error: OnError = "raise",
    ) -> None:
        sampler = EpochSampler(
            len(dataset),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )
        super().__init__(sampler, device_transform, device)
        self.dataset = dataset
        samples = _Samples(dataset, transform, on_error, replace=False)
        targets: list[Target] = []
        row_of = np.full(len(dataset), -1)
        for index in range(len(dataset)):
            skipped: list[str] = []
            sample = samples.load(index, counter_key(seed, 0, index), skipped)
            self._note_skipped(skipped)
            if sample is None:
                continue
            image, target = sample
            if not targets:
                self.images = torch.empty(len(dataset), *image.shape, dtype=image.dtype, device=self.device)
            if image.shape != self.images.shape[1:]:
                raise InputError(
                    f"image of {tuple(image.shape[-2:])} pixels among images of {tuple(self.images.shape[-2:])}",
                    f"sample {index}",
                    "give DeviceResidentLoader a transform that resizes to one size, or use Loader",
                )
            row_of[index] = len(targets)
            self.images[len(targets)] = image
            targets.append(target)
        if not targets:
            raise InputError("no sample can be read", self.skipped[0], "point the configuration to readable images")
        if sampler.training:  # as in Loader, the next readable sample stands in for a broken one
            readable = np.flatnonzero(row_of >= 0)
            following = np.searchsorted(readable, np.arange(len(dataset))) % len(readable)
            row_of = row_of[readable[following]]
        self._row_of = row_of
        self._targets: list[Target] = pack(targets).unpack(self.device)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, ... of ``epoch``, as :meth:`Loader.batches`."""
        for indices in self.sampler.batches(epoch, start):
            rows, keys = self._row_of[indices], counter_keys(self.sampler.seed, epoch, indices)
            kept = rows >= 0
            if not kept.any():
                continue
            numbers = torch.from_numpy(np.stack((rows[kept], keys[kept])))
            if self.device.type == "cuda":
                numbers = numbers.pin_memory()
            on_device_rows, on_device_keys = numbers.to(self.device, non_blocking=True)
            images = list(self.images[on_device_rows].unbind())
            targets = [{**self._targets[row], "key": key} for row, key in zip(rows[kept], on_device_keys.unbind())]
            yield self._finish(images, targets)
