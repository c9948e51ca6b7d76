"""SSD-Det's training is the same run whether it is killed, decoded by workers, or spread over processes.

The engine's and the loader's own tests cover each mechanism; here they meet the refiner, its random negatives and the
sampling of RPN and R-CNN head.
"""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import GENERATED
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "scripts" / "train_series.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SHORT = ["data.val_images=2", "data.batch_size=2", "eval_every=9", "eval_refined=2", "gallery_images=0"]


def series(*runs: tuple[list[str], int | None]) -> tuple[list[int], str]:
    """Train as often as there are pairs of a command line and a step to be killed after."""
    tasks = [{"arguments": arguments, "kill_at": kill_at} for arguments, kill_at in runs]
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def arguments(folder: Path, *more: str) -> list[str]:
    return [*GENERATED, *SHORT, f"output_dir={folder}", *more]


def differing(one: Path, other: Path) -> list[str]:
    """Tensors in which the final weights of two runs are not bit-identical."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    return [key for key in a if not torch.equal(a[key], b[key])]


def losses(folder: Path) -> list[dict[str, float]]:
    """The losses of each step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["kind"] == "train"]


def test_killed_twice_inside_an_epoch_and_with_workers(tmp_path: Path) -> None:
    """12 steps of 2 images, 6 an epoch; checkpoints every 2 steps, so that steps are done again after a kill."""
    whole, killed, workers = (tmp_path / name for name in ("whole", "killed", "workers"))
    more = ["epochs=2", "run.checkpoint_every=2"]
    first, second = sorted(random.Random(3).sample([3, 5, 9, 11], 2))  # not right behind a checkpoint
    statuses, output = series(
        (arguments(whole, *more), None),
        (arguments(killed, *more), first),
        (arguments(killed, *more), second),
        (arguments(killed, *more), None),
        (arguments(workers, *more, "data.workers=2"), None),
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0], output
    for step in (first - 1, second - 1):
        assert f"resumed at epoch {step // 6 + 1}, step {step}" in output
    assert differing(whole, killed) == []
    assert losses(whole) == losses(killed)
    assert differing(whole, workers) == []
    assert len(losses(whole)) == 12
    assert {"loss_spsd1", "loss_spsd2", "loss_negatives", "loss_sisd"} <= losses(whole)[0].keys()


@pytest.mark.slow
def test_two_processes_see_the_losses_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["data.batch_size=4", "optim.name=sgd", "optim.lr=0.01", "optim.warmup_steps=0", "eval_refined=99"]
    statuses, output = series((arguments(one, *more), None))
    assert statuses == [0], output
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "ssd_det.train", *arguments(two, *more)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(losses(one)) == len(losses(two)) == 3
    for step, (a, b) in enumerate(zip(losses(one), losses(two))):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-8), f"step {step + 1}"
    metrics = [json.loads((folder / "metrics.json").read_text())["metrics"] for folder in (one, two)]
    assert metrics[0]["AP50"] == pytest.approx(metrics[1]["AP50"], abs=1e-3)
    assert metrics[0]["iou_refined"] == pytest.approx(metrics[1]["iou_refined"], abs=1e-3)
