"""A training is the same run whether it is killed, stopped, decoded by workers, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet drop path, rotation and batch statistics.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from dqnet_runs import REPORT, TINY, done
from PIL import Image

from vireo.testing.runs import differing, last_checkpoint, logged, losses, read
from vireo.testing.series import Task, series, torchrun

VARIED = ["model.vit.drop_path_rate=0.2", "data.rotate.p=0.5"]
PRELOAD = [f"dqnet.{module}" for module in ("train", "build", "evaluation", "gallery", "load", "weights")]
PRELOAD += ["vireo.engine.run", "torch._dynamo"]  # the latter is imported by optimizers


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, lambda *_, **__: None)


def require_same(whole: Path, other: Path) -> None:
    """Final weights, moments of the optimizer, log and metrics."""
    assert differing(whole, other) == []
    a, b = (last_checkpoint(folder)["optimizer"]["state"] for folder in (whole, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n][name], b[n][name]) for n in a for name in ("exp_avg", "exp_avg_sq"))
    assert losses(whole) == losses(other)
    assert [line["lr"] for line in logged(whole)] == [line["lr"] for line in logged(other)]
    assert read(whole / "metrics.json")["metrics"] == read(other / "metrics.json")["metrics"]


def test_killed_twice_or_stopped_inside_epochs(tmp_path: Path) -> None:
    """9 steps, 3 an epoch; checkpoints every 2 steps, or only when the run is stopped."""
    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))

    def arguments(folder: Path, *more: str) -> list[str]:
        return [*TINY, *VARIED, "data.train_images=12", "epochs=3", "eval_every=3", f"output_dir={folder}", *more]

    often = ["run.checkpoint_every=2"]
    statuses, output = series(
        Task("dqnet.train", arguments(whole, *often)),
        Task("dqnet.train", arguments(killed, *often), 3),
        Task("dqnet.train", arguments(killed, *often), 8),
        Task("dqnet.train", arguments(killed, *often)),
        Task("dqnet.train", arguments(stopped), 4, signal.SIGTERM),
        Task("dqnet.train", arguments(stopped)),
        preload=PRELOAD,
        without=[REPORT],
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [2, 6, 5], output  # killed before a step is saved; a stopped run ends its step, and saves
    assert len(losses(whole)) == 9
    assert losses(whole)[0] != losses(whole)[-1]
    require_same(whole, killed)
    require_same(whole, stopped)


def write_pairs(root: Path) -> Path:
    """Photographs of uneven sizes and their masks."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            height, width = generator.integers(24, 50, 2)
            mask = np.zeros((height, width), np.uint8)
            mask[4:20, 6:18] = 255
            image = generator.integers(0, 200, (height, width, 3), dtype=np.uint8)
            image[mask > 0] += 50
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
            Image.fromarray(image).save(root / split / "images" / f"{number}.jpg")
    return root


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_workers_see_what_the_main_process_sees(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data")
    settings = [text for text in TINY if not text.startswith("data.")]
    data = ["data=sod", f"data.root={root}", "data.batch_size=4", "data.eval_batch_size=2", "epochs=1"]
    zero, two = tmp_path / "zero", tmp_path / "two"
    for folder, workers in ((zero, 0), (two, 2)):
        done(folder, *data, f"data.workers={workers}", settings=settings)
    assert len(losses(zero)) == 2
    assert losses(zero) == losses(two)
    assert differing(zero, two) == []
    assert read(zero / "metrics.json")["metrics"] == read(two / "metrics.json")["metrics"]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """Without drop path, whose draws are those of a process; 5 evaluation pictures, which they do not share evenly."""
    settings = [*TINY, "data.rotate.p=0.5", "data.val_images=5", "data.eval_batch_size=2"]
    one = done(tmp_path / "one", settings=settings)
    torchrun("dqnet.train", *settings, f"output_dir={tmp_path / 'two'}")
    assert len(losses(one)) == len(losses(tmp_path / "two")) == 4
    for step, (a, b) in enumerate(zip(losses(one), losses(tmp_path / "two"))):
        assert a == pytest.approx(b, rel=1e-4), f"step {step + 1}"
    of_one, of_two = (read(tmp_path / name / "metrics.json")["metrics"] for name in ("one", "two"))
    assert of_one == pytest.approx(of_two, abs=0.02)  # of maps whose levels are truncated
