"""Losses and banks of two processes equal those of one with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fgc.collectives import batch_share, gather_rows
from fgc.coupling import FeatureGateCoupling, couple
from fgc.shaping import batch_shaping_loss, expected_gate_rate

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PARTS = {"equal": [(0, 6), (6, 12)], "unequal": [(0, 3), (3, 12)], "one_empty": [(0, 12), (12, 12)]}
SAMPLES, DIM, STEPS = 40, 8, 2


def inputs(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, gate logits and indices of the global batch; the last image is a repeated one."""
    generator = torch.Generator().manual_seed(step)
    features, logits = torch.randn(2, 12, DIM, generator=generator)
    indices = torch.randperm(SAMPLES, generator=generator)[:12]
    indices[-1] = indices[0]
    return features.abs(), logits, indices


def train(first: int, end: int) -> dict[str, Tensor]:
    """Values and gradients of the losses on part of the global batch, and the banks after two steps."""
    torch.manual_seed(0)
    couplings = [FeatureGateCoupling(SAMPLES, DIM, 4, warmup_epochs=1, chunk=16) for _ in range(2)]
    result: dict[str, Tensor] = {}
    for step in range(STEPS):
        features, logits, indices = (rows[first:end] for rows in inputs(step))
        share = batch_share(len(indices), "cpu")
        scale = torch.ones(DIM, requires_grad=True)  # a parameter, the same on all processes
        z = logits * scale
        losses = {"coupling": couple(couplings, [features] * 2, [z, 2 * z], indices, step + 1)}
        losses["shaping"] = batch_shaping_loss(z)
        if len(z):
            losses["rate"] = expected_gate_rate([z, z]) * share
        else:
            losses["rate"] = z.sum() * share
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, scale, retain_graph=True)
            result |= {f"{step} {name}": loss.detach(), f"{step} gradient of {name}": gradient}
    for number, coupling in enumerate(couplings):
        result[f"features {number}"] = coupling.feature_bank.memory
        result[f"gates {number}"] = coupling.gate_bank.memory
    start, (gathered,) = gather_rows(torch.arange(first, end))
    return {**result, "gathered": gathered, "start": torch.tensor(start)}


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Tensor]]]:
    """For each division of the batch the results of the two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, env=ENVIRONMENT, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return {parts: [rank[parts] for rank in ranks] for parts in PARTS}


@pytest.mark.parametrize("parts", PARTS)
def test_two_processes_equal_one(parts: str, of_two_processes: dict[str, list[dict[str, Tensor]]]) -> None:
    expected = train(0, 12)
    one, other = of_two_processes[parts]
    assert one.keys() == other.keys() == expected.keys()
    assert [int(one.pop("start")), int(other.pop("start"))] == [0, PARTS[parts][1][0]]
    for name in one:
        if name.split()[0] in ("features", "gates", "gathered"):
            assert torch.equal(one[name], other[name]), name
            torch.testing.assert_close(one[name], expected[name], rtol=0, atol=0, msg=name)
        else:
            mean = (one[name] + other[name]) / 2
            torch.testing.assert_close(mean, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert torch.equal(one["0 shaping"], other["0 shaping"])


def test_a_single_process_holds_the_whole_batch() -> None:
    assert batch_share(5, "cpu") == 1.0
    rows = torch.randn(3, 2, requires_grad=True)
    start, (gathered,) = gather_rows(rows)
    assert start == 0
    assert torch.equal(gathered, rows)
    assert not gathered.requires_grad


def main(folder: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.save({parts: train(*ranges[rank]) for parts, ranges in PARTS.items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
