"""Pre-training and fine-tuning are the same runs whether they are killed, decoded by workers, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet masks, degradations, mixing and erasing.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch
from bm_command_line import DATA, FINETUNE, PRETRAIN, differing, finetune, logged, losses, pretrain, read, write_folders

from vireo.testing.runs import last_checkpoint
from vireo.testing.series import Task, series, torchrun

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

PRELOAD = [
    *(f"beyond_masking.{module}" for module in ("build", "draws", "finetune", "load", "pretrain", "report")),
    *(
        f"vireo.{module}"
        for module in ("data.image_sets", "data.mixing", "engine.optim", "engine.run", "evaluation.classifier")
    ),
    "torch._dynamo",  # which optimizers import
]
WITHOUT = ["beyond_masking.report.write_run_report", "beyond_masking.report.write_pretraining_report"]
ENTRIES = {"pretrain": PRETRAIN, "finetune": FINETUNE}


def arguments(entry: str, folder: Path, *more: str) -> list[str]:
    """A run of four epochs of four steps."""
    return [*DATA, *ENTRIES[entry], "epochs=4", "eval_every=2", f"output_dir={folder}", *more]


def require_same(whole: Path, other: Path) -> None:
    """Final weights, moments of the optimizer and log."""
    assert differing(whole, other) == []
    a, b = (last_checkpoint(folder)["optimizer"]["state"] for folder in (whole, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n][name], b[n][name]) for n in a for name in ("exp_avg", "exp_avg_sq"))
    assert losses(whole) == losses(other)
    assert [line["monitors"] for line in logged(whole)] == [line["monitors"] for line in logged(other)]


@pytest.mark.parametrize("entry", ["pretrain", "finetune"])
def test_killed_twice_or_stopped_inside_epochs(tmp_path: Path, entry: str) -> None:
    """16 steps, 4 an epoch; checkpoints every 3 steps or only when stopped."""
    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))
    # the draws of a batch (place on the canvas; mixing) and of samples (masks; crops, erasing) all take part
    more = ["degradation.name=zoomed_out"] if entry == "pretrain" else ["run.ema_decay=0.9"]
    module = f"beyond_masking.{entry}"
    often = [*more, "run.checkpoint_every=3"]
    statuses, output = series(
        Task(module, arguments(entry, whole, *often)),
        Task(module, arguments(entry, killed, *often), 5),
        Task(module, arguments(entry, killed, *often), 11),
        Task(module, arguments(entry, killed, *often)),
        Task(module, arguments(entry, stopped, *more), 6, signal.SIGTERM),
        Task(module, arguments(entry, stopped, *more)),
        preload=PRELOAD,
        without=WITHOUT,
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [4, 9, 7]  # saved at 3, at the end of the epoch, at 9; a stopped run ends its step, and saves
    assert len(losses(whole)) == 16
    require_same(whole, killed)
    require_same(whole, stopped)


@pytest.mark.parametrize("entry", ["pretrain", "finetune"])
def test_workers_see_what_the_main_process_sees(tmp_path: Path, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WITHOUT:
        monkeypatch.setattr(name, lambda *_args, **_options: None)
    root = write_folders(tmp_path / "data", {"train": 8, "val": 4}, vary=True)
    data = ["data=imagenet", f"data.root={root}", "data.batch_size=8", "eval_every=1"]
    zero, two = tmp_path / "zero", tmp_path / "two"
    for folder, workers in ((zero, 0), (two, 2)):
        {"pretrain": pretrain, "finetune": finetune}[entry](folder, *data, f"data.workers={workers}", data=[])
    assert len(losses(zero)) == 6
    assert losses(zero) == losses(two)
    assert differing(zero, two) == []


@pytest.mark.slow
@pytest.mark.parametrize("degradation", ["zoomed_in", "decolorized"])
def test_two_processes_pretrain_what_one_does(tmp_path: Path, degradation: str) -> None:
    """Masks and crops are those of the images, what is drawn once a batch that of the global batch."""
    one, two = tmp_path / "one", tmp_path / "two"
    more = [f"degradation.name={degradation}"]
    pretrain(one, "epochs=4", "eval_every=2", *more)
    torchrun("beyond_masking.pretrain", *arguments("pretrain", two, *more))
    assert len(losses(one)) == len(losses(two)) == 16
    for step, (a, b) in enumerate(zip(logged(one), logged(two))):
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-5), f"step {step + 1}"
        assert a["monitors"] == pytest.approx(b["monitors"], rel=1e-4), f"step {step + 1}"
    of_one, of_two = (read(folder / "metrics.json")["metrics"] for folder in (one, two))
    assert of_one == pytest.approx(of_two, rel=1e-5)


@pytest.mark.slow
def test_two_processes_finetune_what_one_does(tmp_path: Path) -> None:
    """Without mixing, whose partners are those of a process."""
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["mixing.mixup=0", "mixing.cutmix=0", "model.drop_path_rate=0"]
    finetune(one, "epochs=4", "eval_every=2", *more)
    torchrun("beyond_masking.finetune", *arguments("finetune", two, *more))
    assert len(losses(one)) == len(losses(two)) == 16
    for step, (a, b) in enumerate(zip(losses(one), losses(two))):
        assert a == pytest.approx(b, rel=1e-5), f"step {step + 1}"
    of_one, of_two = (read(folder / "metrics.json")["metrics"] for folder in (one, two))
    assert of_one["top1_error"] == pytest.approx(of_two["top1_error"], abs=1e-6)
