"""Pre-training is the same run whether it is killed, decoded by workers, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet masks, two views and a moving average.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch
from itpn_pretrain_runs import DATA, MOMENTUM, PIXEL, clip, image_files, pretrain

from vireo.testing.runs import differing, last_checkpoint, logged, losses, read
from vireo.testing.series import Task, series, torchrun

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

PRELOAD = [
    *(f"itpn.{module}" for module in ("pretrain", "pretraining", "pretraining_data", "pretraining_report")),
    "vireo.engine.run",
    "torch._dynamo",  # which optimizers import
]
WITHOUT = ["itpn.pretraining_report.write_pretraining_report"]


def settings_of(kind: str, folder: Path) -> list[str]:
    """Of a run of four epochs of four steps with drop path."""
    settings = clip(folder) if kind == "clip" else MOMENTUM if kind == "momentum" else PIXEL
    return [*settings, "epochs=4", "+model.drop_path_rate=0.2"]


def require_same(whole: Path, other: Path) -> None:
    """Final weights, log, and what the last checkpoint holds: the moving average too."""
    assert differing(whole, other) == []
    assert losses(whole) == losses(other)
    assert [line["monitors"] for line in logged(whole)] == [line["monitors"] for line in logged(other)]
    kept, found = (last_checkpoint(folder)["model"] for folder in (whole, other))
    assert all(torch.equal(kept[name], found[name]) for name in kept)


def test_killed_twice_or_stopped_inside_epochs(tmp_path: Path) -> None:
    """16 steps, 4 an epoch; checkpoints every 3 steps or only when stopped."""
    whole, killed, stopped, features, again = (tmp_path / name for name in ("whole", "killed", "stopped", "f", "g"))

    def task(folder: Path, *more: str, kind: str = "momentum", step: int | None = None, by: int = 9) -> Task:
        settings = [*DATA, *settings_of(kind, tmp_path), f"output_dir={folder}", *more]
        return Task("itpn.pretrain", settings, step, signal.Signals(by))

    often = "run.checkpoint_every=3"
    statuses, output = series(
        task(whole, often),
        task(killed, often, step=5),
        task(killed, often, step=11),
        task(killed, often),
        task(stopped, step=6, by=signal.SIGTERM),
        task(stopped),
        task(features, often, kind="clip"),
        task(again, often, kind="clip", step=5),
        task(again, often, kind="clip"),
        preload=PRELOAD,
        without=WITHOUT,
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0, 0, 0, -signal.SIGKILL, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [4, 9, 7, 4]  # saved at 3, at the end of the epoch, at 9; a stopped run ends its step, and saves
    assert len(losses(whole)) == len(losses(features)) == 16
    require_same(whole, killed)
    require_same(whole, stopped)
    require_same(features, again)


@pytest.mark.parametrize("kind", ["clip", "pixel"])
def test_workers_see_what_the_main_process_sees(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WITHOUT[0], lambda *_args, **_options: None)
    zero, two = tmp_path / "zero", tmp_path / "two"
    data = image_files(tmp_path / "data")
    settings = [value for value in settings_of(kind, tmp_path) if "batch_size" not in value and "epochs" not in value]
    for folder, workers in ((zero, 0), (two, 2)):
        pretrain(folder, *settings, f"data.workers={workers}", "epochs=2", data=data)
    assert len(losses(zero)) == 6
    assert losses(zero) == losses(two)
    assert differing(zero, two) == []


@pytest.mark.slow
def test_two_processes_pretrain_what_one_does(tmp_path: Path) -> None:
    """Masks and crops are those of the images, and the moving averages of the processes are one."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = [*MOMENTUM, "epochs=4"]
    pretrain(one, *settings)
    torchrun("itpn.pretrain", *DATA, *settings, f"output_dir={two}")
    assert len(losses(one)) == len(losses(two)) == 16
    for step, (a, b) in enumerate(zip(logged(one), logged(two))):
        assert a["losses"] == pytest.approx(b["losses"], rel=2e-5), f"step {step + 1}"
        assert a["monitors"] == pytest.approx(b["monitors"], rel=2e-4), f"step {step + 1}"
    of_one, of_two = (read(folder / "metrics.json")["metrics"] for folder in (one, two))
    assert of_one == pytest.approx(of_two, rel=2e-5)
