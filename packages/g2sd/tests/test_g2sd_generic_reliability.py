"""Generic distillation is the same run whether it is killed, decoded by workers, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet masks and a teacher beside the model.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from g2sd_generic_runs import DATA, DISTILL, PRETRAIN, distill, image_files, pretrain

from vireo.testing.runs import differing, logged, losses, read
from vireo.testing.series import Task, series, torchrun

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

PRELOAD = [
    *(f"g2sd.{module}" for module in ("pretrain", "distill", "pretraining", "pretraining_report", "teacher_check")),
    "vireo.engine.run",
    "torch._dynamo",  # which optimizers import
]
WITHOUT = ["g2sd.pretraining_report.write_pretraining_report", "g2sd.pretraining_report.write_distillation_report"]
DRAWN = ["teacher.random_decoder=true", "encoder_weight=0.5"]  # a decoder that every process must draw alike


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tmp_path_factory.mktemp("teacher"), "epochs=2", "eval_every=0")


def require_same(whole: Path, other: Path) -> None:
    """Final weights, losses and all that is monitored."""
    assert differing(whole, other) == []
    assert losses(whole) == losses(other)
    assert [line["monitors"] for line in logged(whole)] == [line["monitors"] for line in logged(other)]


def test_killed_inside_epochs(teacher: Path, tmp_path: Path) -> None:
    """16 steps, 4 an epoch; checkpoints every 3 steps."""
    whole, killed, pixels, again = (tmp_path / name for name in ("whole", "killed", "pixels", "again"))

    def task(folder: Path, kind: str = "distill", step: int | None = None) -> Task:
        own = [*DISTILL, f"teacher.weights={teacher}", *DRAWN] if kind == "distill" else PRETRAIN
        settings = [*DATA, *own, "epochs=4", f"output_dir={folder}", "run.checkpoint_every=3"]
        return Task(f"g2sd.{kind}", settings, step, signal.SIGKILL)

    statuses, output = series(
        task(whole),
        task(killed, step=5),
        task(killed, step=11),
        task(killed),
        task(pixels, "pretrain"),
        task(again, "pretrain", step=5),
        task(again, "pretrain"),
        preload=PRELOAD,
        without=WITHOUT,
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0, -signal.SIGKILL, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [4, 9, 4]  # saved at 3, at the end of the epoch, at 9
    assert len(losses(whole)) == len(losses(pixels)) == 16
    require_same(whole, killed)
    require_same(pixels, again)


@pytest.mark.parametrize("kind", ["distill", "pretrain"])
def test_workers_see_what_the_main_process_sees(teacher: Path, tmp_path: Path, kind: str) -> None:
    data = image_files(tmp_path / "data")
    folders = {0: tmp_path / "zero", 2: tmp_path / "two"}
    for workers, folder in folders.items():
        settings = ["epochs=2", "data.batch_size=8", f"data.workers={workers}"]
        if kind == "distill":
            distill(folder, teacher, *settings, data=data)
        else:
            pretrain(folder, *settings, data=data)
    assert len(losses(folders[0])) == 6
    assert losses(folders[0]) == losses(folders[2])
    assert differing(folders[0], folders[2]) == []


@pytest.mark.slow
def test_two_processes_distil_what_one_does(teacher: Path, tmp_path: Path) -> None:
    """Masks and crops are those of the images, and the drawn decoders of the processes are one."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = [*DRAWN, "epochs=4"]
    distill(one, teacher, *settings)
    torchrun("g2sd.distill", *DATA, *DISTILL, f"teacher.weights={teacher}", *settings, f"output_dir={two}")
    assert len(losses(one)) == len(losses(two)) == 16
    for step, (a, b) in enumerate(zip(logged(one), logged(two))):
        assert a["losses"] == pytest.approx(b["losses"], rel=2e-5), f"step {step + 1}"
        assert a["monitors"] == pytest.approx(b["monitors"], rel=2e-4), f"step {step + 1}"
    of_one, of_two = (read(folder / "metrics.json")["metrics"] for folder in (one, two))
    assert of_one == pytest.approx(of_two, rel=2e-5)
