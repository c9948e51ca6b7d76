"""Fine-tuning is the same run whether it is killed, decoded by workers, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet mixing, erasing, drop path and averages.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch
from itpn_command_line import DATA, FAST, FINETUNE, MODEL, finetune

from vireo.testing.runs import differing, last_checkpoint, logged, losses, read, write_folders
from vireo.testing.series import Task, series, torchrun

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

PRELOAD = [
    *(f"itpn.{module}" for module in ("build", "finetune", "load", "report")),
    *(f"vireo.{module}" for module in ("data.image_sets", "data.mixing", "engine.run", "evaluation.classifier")),
    "torch._dynamo",  # which optimizers import
]
WITHOUT = ["itpn.report.write_finetuning_report"]
MIXED = ["mixing.mixup=0.8", "mixing.cutmix=1", "augmentation.erasing=0.25", "model.drop_path_rate=0.2"]


def arguments(folder: Path, *more: str) -> list[str]:
    """A run of four epochs of four steps."""
    return [*DATA, *FINETUNE, "epochs=4", "eval_every=2", f"output_dir={folder}", *more]


def require_same(whole: Path, other: Path) -> None:
    """Final weights, moments of the optimizer and log."""
    assert differing(whole, other) == []
    a, b = (last_checkpoint(folder)["optimizer"]["state"] for folder in (whole, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n][name], b[n][name]) for n in a for name in ("exp_avg", "exp_avg_sq"))
    assert losses(whole) == losses(other)
    assert [line["monitors"] for line in logged(whole)] == [line["monitors"] for line in logged(other)]


def test_killed_twice_or_stopped_inside_epochs(tmp_path: Path) -> None:
    """16 steps, 4 an epoch; checkpoints every 3 steps or only when stopped."""
    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))
    more = [*MIXED, "run.ema_decay=0.9", "+model.rel_pos=bias"]
    often = [*more, "run.checkpoint_every=3"]
    statuses, output = series(
        Task("itpn.finetune", arguments(whole, *often)),
        Task("itpn.finetune", arguments(killed, *often), 5),
        Task("itpn.finetune", arguments(killed, *often), 11),
        Task("itpn.finetune", arguments(killed, *often)),
        Task("itpn.finetune", arguments(stopped, *more), 6, signal.SIGTERM),
        Task("itpn.finetune", arguments(stopped, *more)),
        preload=PRELOAD,
        without=WITHOUT,
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [4, 9, 7]  # saved at 3, at the end of the epoch, at 9; a stopped run ends its step, and saves
    assert len(losses(whole)) == 16
    require_same(whole, killed)
    require_same(whole, stopped)


def test_workers_see_what_the_main_process_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WITHOUT[0], lambda *_args, **_options: None)
    root = write_folders(tmp_path / "data", {"train": 8, "val": 4}, vary=True)
    data = ["data=imagenet", f"data.root={root}", "data.normalize=half"]
    zero, two = tmp_path / "zero", tmp_path / "two"
    for folder, workers in ((zero, 0), (two, 2)):
        finetune(folder, *MIXED, "data.batch_size=8", f"data.workers={workers}", data=data)
    assert len(losses(zero)) == 6
    assert losses(zero) == losses(two)
    assert differing(zero, two) == []


@pytest.mark.slow
@pytest.mark.parametrize("network", ["itpn", "fast"])
def test_two_processes_train_what_one_does(tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mixing, whose partners are those of a process, and without drop path."""
    monkeypatch.setattr(WITHOUT[0], lambda *_args, **_options: None)
    one, two = tmp_path / "one", tmp_path / "two"
    model = FAST if network == "fast" else [*MODEL, "+model.rel_pos=bias"]
    settings = [*(text for text in FINETUNE if text not in MODEL), *model, "augmentation.erasing=0.25", "epochs=3"]
    finetune(one, settings=settings)
    torchrun("itpn.finetune", *DATA, *settings, f"output_dir={two}")
    assert len(losses(one)) == len(losses(two)) == 12
    for step, (a, b) in enumerate(zip(losses(one), losses(two))):
        assert a == pytest.approx(b, rel=1e-5), f"step {step + 1}"
    of_one, of_two = (read(folder / "metrics.json")["metrics"] for folder in (one, two))
    assert of_one["top1_error"] == pytest.approx(of_two["top1_error"], abs=1e-6)
