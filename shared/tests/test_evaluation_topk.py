"""Top-k error, alone and over processes."""

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing as mp

from vireo.errors import InputError
from vireo.evaluation import TopK, topk_correct


def test_against_torch_topk() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 12, generator=generator)
    labels = torch.randint(12, (200,), generator=generator)
    correct = topk_correct(logits, labels, (1, 3, 5))
    for k, row in zip((1, 3, 5), correct):
        assert torch.equal(row, (logits.topk(k, dim=1).indices == labels[:, None]).any(1))


def test_ties_go_to_the_lower_class_and_nan_is_never_right() -> None:
    logits = torch.zeros(3, 4)
    assert topk_correct(logits, torch.tensor([0, 1, 3]), (1, 2)).tolist() == [[True, False, False], [True, True, False]]
    logits = torch.tensor([[torch.nan, 1.0, 0.0], [torch.nan, 1.0, 0.0], [torch.nan] * 3])
    assert topk_correct(logits, torch.tensor([0, 1, 2]), (1, 2)).tolist() == [[False] * 3, [False, True, False]]


def test_k_above_the_number_of_classes_counts_all() -> None:
    assert topk_correct(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), (3, 5)).all()


@pytest.mark.parametrize("label", [-1, 3])
def test_label_out_of_range(label: int) -> None:
    with pytest.raises(InputError, match=rf"sample 1 of the batch: label {label} is outside 0 to 2"):
        topk_correct(torch.randn(2, 3), torch.tensor([0, label]))


@pytest.mark.parametrize("ks", [(0, 1), ()])
def test_k_below_one(ks: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="is not positive"):
        topk_correct(torch.randn(2, 3), torch.tensor([0, 1]), ks)


LOGITS = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3]])
LABELS = torch.tensor([0, 1, 3, 3, 0])
EXPECTED = {"top1_error": 60.0, "top2_error": 40.0, "class_errors": [50.0, 100.0, None, 50.0], "samples": 5}


def test_errors_over_batches() -> None:
    meter = TopK(4, ks=(1, 2))
    meter.update(LOGITS[:2], LABELS[:2])
    meter.update(LOGITS[2:], LABELS[2:])
    result = meter.compute()
    assert result == EXPECTED
    assert meter.compute() == result


def test_nothing_evaluated() -> None:
    with pytest.raises(InputError, match="no samples were evaluated"):
        TopK(3).compute()


def _share(rank: int, address: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    meter = TopK(4, ks=(1, 2))
    if rank == 0:  # the other process has no batch
        meter.update(LOGITS, LABELS)
    assert meter.compute() == EXPECTED
    assert meter.compute() == EXPECTED  # merging leaves the process's own counts alone
    dist.destroy_process_group()


def test_two_processes(tmp_path_factory: pytest.TempPathFactory) -> None:
    address = f"file://{tmp_path_factory.mktemp('group') / 'store'}"
    mp.start_processes(_share, args=(address,), nprocs=2, start_method="fork")
