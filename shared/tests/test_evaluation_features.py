"""Features of a frozen encoder: order, duplicates, several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch import multiprocessing as mp

from vireo.errors import InputError
from vireo.evaluation import Features, gather_features
from vireo.evaluation import features as module


def batches(samples: Sequence[Sequence[int]], source: float = 0.0) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Batches of sample numbers; the image of sample i is filled with i, its label is 10 i."""
    for numbers in samples:
        index = torch.tensor(numbers)
        images = index.float()[:, None, None, None].expand(-1, 3, 2, 2) + source
        yield images, {"label": 10 * index, "index": index}


def encode(images: Tensor) -> Tensor:
    assert not torch.is_grad_enabled()
    mean = images.mean((2, 3))
    return torch.cat([mean, -mean], 1)


def is_whole(result: Features, expected: Sequence[int]) -> None:
    assert result.index.tolist() == list(expected)
    assert result.labels.tolist() == [10 * i for i in expected]
    assert torch.equal(result.features, torch.tensor([[i] * 3 + [-i] * 3 for i in expected], dtype=torch.float32))
    assert result.labels.dtype == result.index.dtype == torch.int64
    assert len(result) == len(expected)


@pytest.mark.parametrize("samples", [[[0, 1, 2], [3, 4]], [[4, 2], [0, 3, 1]], [[0, 1, 1], [2, 3, 4], [4]]])
def test_in_order_and_once(samples: list[list[int]]) -> None:
    is_whole(gather_features(encode, batches(samples)), range(5))


def test_low_precision_becomes_float32() -> None:
    result = gather_features(lambda images: encode(images).bfloat16().requires_grad_(), batches([[1, 0]]))
    is_whole(result, [0, 1])


def test_no_samples() -> None:
    with pytest.raises(InputError, match="no samples were encoded"):
        gather_features(encode, [])


def _share(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    # uneven shards, sample 3 twice: the lower rank's row stays; the last process has nothing
    own = ([[4, 0], [3, 6], [2]], [[5, 1, 3]], [])[rank]
    with mock.patch.object(module, "_ROWS_A_MESSAGE", 2):
        result = gather_features(encode, batches(own, source=0.0 if rank == 0 else 1.0))
    expected = torch.tensor([0.0, 2.0, 2.0, 3.0, 4.0, 6.0, 6.0])
    assert result.index.tolist() == list(range(7))
    assert result.labels.tolist() == [10 * i for i in range(7)]
    assert torch.equal(result.features[:, 0], expected)
    assert torch.equal(result.features[:, 5], -expected)
    dist.destroy_process_group()


def test_three_processes(tmp_path: Path) -> None:
    mp.start_processes(_share, args=(tmp_path,), nprocs=3, start_method="fork")
