"""Mean IoU against its definition, absent classes, several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vireo.errors import InputError
from vireo.evaluation import SegmentationScore

CLASSES = ("a", "b", "c", "d")


def pixels(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (2, 20, 30), generator=generator)
    predictions = torch.where(torch.rand(2, 20, 30, generator=generator) < 0.6, labels, labels * 2 % 3)
    labels[:, :3] = 255
    return predictions.to(torch.uint8), labels.to(torch.uint8)


def test_definition() -> None:
    score = SegmentationScore(CLASSES)
    batches = [pixels(seed) for seed in range(3)]
    for predictions, labels in batches:
        score.update(predictions, labels)
    found, true = (torch.cat(parts).flatten() for parts in zip(*batches))
    found, true = found[true != 255], true[true != 255]
    iou = [float(((found == k) & (true == k)).sum() / ((found == k) | (true == k)).sum()) for k in range(3)]
    recall = [float(((found == k) & (true == k)).sum() / (true == k).sum()) for k in range(3)]
    metrics = score.compute()
    assert metrics["per_class"] == {**dict(zip(CLASSES, map(pytest.approx, iou))), "d": None}
    assert metrics["mIoU"] == pytest.approx(sum(iou) / 3)
    assert metrics["mAcc"] == pytest.approx(sum(recall) / 3)
    assert metrics["aAcc"] == pytest.approx(float((found == true).float().mean()))


def test_predicted_but_absent_counts_in_the_iou_alone() -> None:
    score = SegmentationScore(CLASSES)
    score.update(torch.tensor([0, 0, 3, 1]), torch.tensor([0, 0, 0, 255]))
    metrics = score.compute()
    assert metrics["per_class"] == {"a": pytest.approx(2 / 3), "b": None, "c": None, "d": 0}
    assert metrics["mIoU"] == pytest.approx(1 / 3)
    assert metrics["mAcc"] == pytest.approx(2 / 3)


def test_mistakes() -> None:
    score = SegmentationScore(CLASSES)
    with pytest.raises(InputError, match=r"predictions \(2,\) for labels \(3,\)"):
        score.update(torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match="classes from 0 to 4"):
        score.update(torch.tensor([0, 4]), torch.tensor([1, 1]))
    score.update(torch.tensor([7]), torch.tensor([255]))  # ignored, whatever is predicted there
    with pytest.raises(InputError, match="no pixels"):
        score.compute()


def _process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    score = SegmentationScore(CLASSES)
    for seed in range(3):
        if seed % 2 == rank:
            score.update(*pixels(seed))
    torch.save(score.compute(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_count_what_one_does(tmp_path: Path) -> None:
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="fork")
    score = SegmentationScore(CLASSES)
    for seed in range(3):
        score.update(*pixels(seed))
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [score.compute()] * 2
