"""A training is the same run whether it is killed, decoded by workers, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet drop path, cutout, and nodes that nothing
reads.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch
from if_nas_runs import CHAIN, GENERATED, chain, train

from if_nas import Genotype, prune_dead_nodes, write_genotype
from vireo.testing.runs import differing, last_checkpoint, losses, read, weights
from vireo.testing.series import Task, series, torchrun

PRELOAD = ["vireo.engine.run", *(f"if_nas.{name}" for name in ("build", "data", "evaluation", "load", "train_report"))]
WITHOUT = ["if_nas.train_report.write_run_report"]
VARIED = ["model.drop_path=0.3", "data.cutout=4", "model.width=2", "optim.schedule=linear"]


def arguments(folder: Path, *more: str) -> list[str]:
    return [*GENERATED, chain(folder.parent), "eval_every=9", f"output_dir={folder}", *more]


def momenta(folder: Path) -> dict[int, torch.Tensor]:
    state = last_checkpoint(folder)["optimizer"]["state"]
    return {number: entry["momentum_buffer"] for number, entry in state.items()}


def require_same(whole: Path, other: Path) -> None:
    """Final weights, momenta and log."""
    assert differing(whole, other) == []
    assert losses(whole) == losses(other)
    one, two = momenta(whole), momenta(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[number], two[number]) for number in one)


def test_killed_or_stopped(tmp_path: Path) -> None:
    """8 steps, 4 an epoch; checkpoints every 2 steps or only when stopped. Drop path goes on at its epoch's rate."""
    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))
    more = [*VARIED, "run.checkpoint_every=2"]
    to_be_stopped = arguments(stopped, *more, "run.checkpoint_every=0")
    statuses, output = series(
        Task("if_nas.train", arguments(whole, *more)),
        Task("if_nas.train", arguments(killed, *more), 5),
        Task("if_nas.train", arguments(killed, *more)),
        Task("if_nas.train", to_be_stopped, 6, signal.SIGTERM),
        Task("if_nas.train", to_be_stopped),
        preload=PRELOAD,
        without=WITHOUT,
    )
    assert statuses == [0, -signal.SIGKILL, 0, 0, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [4, 7]  # a stopped run ends its step, and saves
    assert len(losses(whole)) == 8
    require_same(whole, killed)
    require_same(whole, stopped)


@pytest.mark.slow
def test_two_processes_see_the_losses_of_one(tmp_path: Path) -> None:
    """Without drop path, whose draws are those of a process; with a node that nothing reads, as some released ones."""
    stages = CHAIN.to_dict()
    stages["stage2"] = {"1": [["conv3", 0]], "2": [["conv3", 1]], "3": [["conv3", 1]]}
    write_genotype(tmp_path / "dead.json", genotype := Genotype.from_dict(stages))
    assert prune_dead_nodes(genotype) != genotype
    one, two = tmp_path / "one", tmp_path / "two"
    more = [f"genotype={tmp_path}/dead.json", "data.val_images=41", "optim.lr=0.01", "data.cutout=4"]
    train(one, *more, data=arguments(one))
    torchrun("if_nas.train", *arguments(two, *more))
    assert len(losses(one)) == len(losses(two)) == 8
    for step, (a, b) in enumerate(zip(losses(one), losses(two))):
        assert a == pytest.approx(b, rel=1e-4), f"step {step + 1}"
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-3, atol=1e-4, msg=name)
    torchrun("if_nas.eval", f"run={one}", f"out={one}/eval.json")
    assert read(one / "eval.json")["metrics"]["top1"] == pytest.approx(read(one / "metrics.json")["metrics"]["top1"])
