"""Features of a frozen encoder over a data set, gathered once and then used by k-NN, linear probe and their grids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vireo.errors import InputError

_ROWS_A_MESSAGE = 2**14


@dataclass(frozen=True)
class Features:
    """A data set seen through a frozen encoder.

    Attributes:
        features: float32 ``(N, D)``.
        labels: int64 ``(N,)``, classes from 0.
        index: int64 ``(N,)``, the samples' positions in the data set.
    """

    features: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.features)


@torch.no_grad()
def gather_features(encode: Callable[[Any], Tensor], batches: Iterable[tuple[Any, Mapping[str, Tensor]]]) -> Features:
    """Encode the batches of this process and bring the results of all processes together.

    Call it on all processes: each of them receives all samples, sorted by index, with one row for a sample that several
    processes encoded (a padded sampler's duplicates; the lowest rank's row stays). So what is computed from the result
    is the same with any number of processes.

    Args:
        encode: images of a batch to ``(B, D)``, without dropout and the like: put the network into evaluation mode.
        batches: pairs of images and targets with ``label`` and ``index``, each int64 ``(B,)``. The number of batches
            may differ between processes, and be 0.

    Returns:
        :class:`Features` on the CPU.

    Raises:
        InputError: no samples on any process.
    """
    features, labels, index = [], [], []
    for images, targets in batches:
        features.append(encode(images).float().cpu())
        labels.append(targets["label"].cpu())
        index.append(targets["index"].cpu())
    columns = [
        torch.cat(features) if features else torch.zeros(0, 0),
        torch.cat(labels).long() if labels else torch.zeros(0, dtype=torch.int64),
        torch.cat(index).long() if index else torch.zeros(0, dtype=torch.int64),
    ]
    if dist.is_available() and dist.is_initialized():
        columns = _all_processes(*columns)
    samples = columns[2]
    if not len(samples):
        raise InputError("no samples were encoded", "gather_features", "Give at least one batch")
    ordered, rows = samples.sort(stable=True)
    rows = rows[torch.cat([torch.ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])]
    if torch.equal(rows, torch.arange(len(samples))):
        return Features(*columns)  # in order already: spares a copy of what may be gigabytes
    return Features(*(column[rows] for column in columns))


def _all_processes(features: Tensor, labels: Tensor, index: Tensor) -> list[Tensor]:
    """The rows of all processes, those of lower ranks first.

    Tensors travel in messages of bounded size: pickled as one object, features of ImageNet would need their size
    several times over, on the GPU where that is where messages travel.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    world_size = dist.get_world_size()
    own = torch.tensor(features.shape, device=device)
    shapes = [torch.zeros_like(own) for _ in range(world_size)]
    dist.all_gather(shapes, own)
    rows, widths = torch.stack(shapes).T.tolist()
    features = features.reshape(len(features), max(widths))  # a process without samples does not know the width
    return [_all_rows(column, rows, device) for column in (features, labels, index)]


def _all_rows(column: Tensor, rows: list[int], device: torch.device) -> Tensor:
    """``(sum(rows), ...)``, where each process gives its ``(rows[rank], ...)``."""
    gathered = column.new_empty(sum(rows), *column.shape[1:])
    parts = gathered.split(rows)
    for start in range(0, max(rows), _ROWS_A_MESSAGE):
        size = min(_ROWS_A_MESSAGE, max(rows) - start)
        message = torch.zeros(size, *column.shape[1:], dtype=column.dtype, device=device)
        own = column[start : start + size]
        message[: len(own)] = own.to(device)
        received = [torch.empty_like(message) for _ in rows]
        dist.all_gather(received, message)
        for part, piece in zip(parts, received):
            wanted = part[start : start + size]
            wanted.copy_(piece[: len(wanted)])
    return gathered


def check_features(train: Features, test: Features, num_classes: int | None = None) -> None:
    """Whether the two can be a training and a test set.

    Args:
        train, test: the two sets.
        num_classes: labels must be below it; None: any number of classes.

    Raises:
        InputError: a set is empty, its parts differ in length, features are not finite or of two widths, a label is
            out of range.
    """
    for name, part in (("training features", train), ("test features", test)):
        if len(part.features) != len(part.labels):
            raise InputError(f"{len(part.features)} rows with {len(part.labels)} labels", name, "Give one label a row")
        if not len(part):
            raise InputError("there are no samples", name, "Give at least one")
        finite = part.features.isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            remedy = "Check the encoder's weights and its precision"
            raise InputError(f"row {row} (sample {int(part.index[row])}) is not finite", name, remedy)
        bad = part.labels < 0 if num_classes is None else (part.labels < 0) | (part.labels >= num_classes)
        if bad.any():
            row = int(bad.nonzero()[0])
            limit = "negative" if num_classes is None else f"outside 0 to {num_classes - 1}"
            what = f"label {int(part.labels[row])} of row {row} is {limit}"
            raise InputError(what, name, "Check that the encoder and both sets have the same classes")
    if train.features.shape[1] != test.features.shape[1]:
        what = f"training rows have {train.features.shape[1]} features, test rows {test.features.shape[1]}"
        raise InputError(what, "test features", "Encode both sets with the same encoder")
