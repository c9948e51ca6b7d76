"""Runs that are killed, asked to stop, restarted, and spread over processes."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "scripts" / "train_tiny.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def series(*runs: list[str]) -> tuple[list[int], str]:
    """Do the runs one after the other, each in a process of its own; their exit statuses and what they wrote."""
    command = [sys.executable, str(SCRIPT), "--series"]
    done = subprocess.run(command, input=json.dumps(runs), capture_output=True, text=True, env=ENVIRONMENT, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def torchrun(*arguments: str) -> str:
    """Run the script on two processes and return what they wrote."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights bit by bit."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def losses(folder: Path) -> list[dict[str, float]]:
    """The losses of each step in the log."""
    lines: list[Any] = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["kind"] == "train"]


def test_killed_five_times_ends_with_the_same_weights(tmp_path: Path) -> None:
    settings = ["epochs=3", "noise=0.1", "checkpoint_every=2", "ema_decay=0.9", "grad_clip=1.0", "accumulate=2"]
    settings += ["batches=11", "monitor=AP50"]
    steps = sorted(random.Random(5).sample(range(1, 18), 5))
    killed = [str(tmp_path / "killed"), f"kill_at={steps}", *settings]
    statuses, _ = series([str(tmp_path / "whole"), *settings], *[killed] * 6)
    assert statuses == [0, *[-signal.SIGKILL] * 5, 0]
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "killed")]
    assert metrics[0]["best"] == metrics[1]["best"]


def test_a_stop_signal_saves_and_leaves(tmp_path: Path) -> None:
    settings = ["epochs=2", "noise=0.1"]
    stopped = [str(tmp_path / "stopped"), *settings]
    statuses, output = series(
        [str(tmp_path / "whole"), *settings],
        [*stopped, "signal_at=2"],
        [*stopped, "signal_at=8", "signal_name=SIGUSR1"],
        stopped,
    )
    assert statuses == [0, 0, 0, 0]
    assert "asked to stop; saved at step 3" in output
    assert "resumed at epoch 2, step 9" in output
    assert same(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_two_processes_see_the_losses_of_one(tmp_path: Path) -> None:
    """With accumulation, whose last step of an epoch is a single batch here: a step with and one without."""
    settings = ["epochs=2", "batches=3", "accumulate=2", "grad_clip=1.0"]
    one, two = tmp_path / "one", tmp_path / "two"
    series([str(one), *settings])
    torchrun(str(SCRIPT), str(two), *settings)
    assert len(losses(one)) == len(losses(two)) == 4
    for a, b in zip(losses(one), losses(two)):
        assert a == pytest.approx(b, abs=1e-6)


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_the_run_finishes(tmp_path: Path) -> None:
    settings = ["epochs=2", "checkpoint_every=2", "noise=0.1"]
    output = torchrun("--max-restarts=1", str(SCRIPT), str(tmp_path / "run"), "kill_at=[9]", *settings)
    assert "resumed at epoch 2, step 8" in output
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["finished"]
    assert len(losses(tmp_path / "run")) == 12


@pytest.mark.slow
def test_one_process_asked_to_stop_stops_all(tmp_path: Path) -> None:
    output = torchrun(str(SCRIPT), str(tmp_path), "epochs=2", "signal_at=3", "signal_name=SIGUSR1")
    assert "asked to stop; saved at step 4" in output
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000004.pt"]
