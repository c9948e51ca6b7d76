"""Fine-tuning is the same run whether it is killed, decoded by workers, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet a teacher, mixing, erasing and drop path.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch
from g2sd_finetune_runs import DATA, FINETUNE, finetune, make_chain, without_reports

from vireo.testing.runs import differing, last_checkpoint, logged, losses, read, write_folders
from vireo.testing.series import Task, series, torchrun

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

PRELOAD = [
    *(f"g2sd.{module}" for module in ("build", "finetune", "load", "report")),
    *(f"vireo.{module}" for module in ("data.image_sets", "data.mixing", "engine.run", "evaluation.classifier")),
    "torch._dynamo",  # which optimizers import
]
WITHOUT = ["g2sd.report.write_finetuning_report"]
MIXED = ["mixing.mixup=0.8", "mixing.cutmix=1", "augmentation.erasing=0.25", "+model.drop_path_rate=0.2"]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    without_reports(monkeypatch)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a student of both stages."""
    runs = make_chain(tmp_path_factory)
    return [f"init={runs['distill']}", f"teacher.weights={runs['teacher']}"]


def require_same(whole: Path, other: Path) -> None:
    """Final weights, moments of the optimizer and log."""
    assert differing(whole, other) == []
    a, b = (last_checkpoint(folder)["optimizer"]["state"] for folder in (whole, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n][name], b[n][name]) for n in a for name in ("exp_avg", "exp_avg_sq"))
    assert losses(whole) == losses(other)
    assert [line["monitors"] for line in logged(whole)] == [line["monitors"] for line in logged(other)]


def test_killed_twice_or_stopped_inside_epochs(tmp_path: Path, taught: list[str]) -> None:
    """12 steps, 4 an epoch; checkpoints every 3 steps or only when stopped, then with labels kept by the killed run."""
    whole, killed, stopped, cache = (tmp_path / name for name in ("whole", "killed", "stopped", "cache"))

    def arguments(folder: Path, *more: str) -> list[str]:
        return [*DATA, *FINETUNE, *MIXED, *taught, "epochs=3", "eval_every=3", f"output_dir={folder}", *more]

    often = ["run.checkpoint_every=3", f"teacher.cache={cache}"]
    statuses, output = series(
        Task("g2sd.finetune", arguments(whole, "run.checkpoint_every=3")),
        Task("g2sd.finetune", arguments(killed, *often), 5),
        Task("g2sd.finetune", arguments(killed, *often), 11),
        Task("g2sd.finetune", arguments(killed, *often)),
        Task("g2sd.finetune", arguments(stopped, f"teacher.cache={cache}"), 6, signal.SIGTERM),
        Task("g2sd.finetune", arguments(stopped, f"teacher.cache={cache}")),
        preload=PRELOAD,
        without=WITHOUT,
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [4, 9, 7]  # saved at 3, at the end of the epoch, at 9; a stopped run ends its step, and saves
    assert len(losses(whole)) == 12
    require_same(whole, killed)
    require_same(whole, stopped)
    kept = {path.name for path in cache.glob("*.npy")}
    assert kept == {
        f"epoch_{epoch:05d}_process_0.npy" for epoch in range(3)
    }  # the last by the stopped run, that began it


def test_workers_see_what_the_main_process_sees(tmp_path: Path, taught: list[str]) -> None:
    root = write_folders(tmp_path / "data", {"train": 8, "val": 4}, vary=True)
    data = ["data=imagenet", f"data.root={root}"]
    zero, two = tmp_path / "zero", tmp_path / "two"
    start = [text for text in taught if text.startswith("init=")]
    for folder, workers in ((zero, 0), (two, 2)):
        finetune(folder, *MIXED, *start, "epochs=1", "data.batch_size=8", f"data.workers={workers}", data=data)
    assert len(losses(zero)) == 3
    assert losses(zero) == losses(two)
    assert differing(zero, two) == []


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path, taught: list[str]) -> None:
    """Without mixing, whose partners are those of a process, and without drop path."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = [*FINETUNE, *taught, "augmentation.erasing=0.25", "epochs=3", "optim.lr=0.02"]
    finetune(one, settings=settings)
    torchrun("g2sd.finetune", *DATA, *settings, f"output_dir={two}", f"teacher.cache={tmp_path}/labels")
    assert len(losses(one)) == len(losses(two)) == 12
    assert losses(one)[0] != losses(one)[-1]
    for step, (a, b) in enumerate(zip(losses(one), losses(two))):
        assert a == pytest.approx(b, rel=1e-5), f"step {step + 1}"
    of_one, of_two = (read(folder / "metrics.json")["metrics"] for folder in (one, two))
    assert of_one["top1_error"] == pytest.approx(of_two["top1_error"], abs=1e-6)
    assert len(list((tmp_path / "labels").glob("epoch_*_process_1.npy"))) == 3
