"""SSD-Det's training is the same run whether it is killed, decoded by workers, or spread over processes.

The engine's and the loader's own tests cover each mechanism; here they meet the refiner, its random negatives and the
sampling of RPN and R-CNN head.
"""

import random
import signal
from pathlib import Path

import pytest
from command_line import GENERATED, differing, losses, read

from vireo.testing.series import Task, series, torchrun

PRELOAD = ["vireo.engine.run", *(f"ssd_det.{module}" for module in ("build", "data", "eval", "report", "train"))]
WITHOUT = ["ssd_det.report.write_run_report"]
SHORT = ["data.val_images=2", "data.batch_size=2", "eval_every=9", "eval_refined=2", "gallery_images=0"]


def arguments(folder: Path, *more: str) -> list[str]:
    return [*GENERATED, *SHORT, f"output_dir={folder}", *more]


def test_killed_twice_inside_an_epoch_and_with_workers(tmp_path: Path) -> None:
    """12 steps of 2 images, 6 an epoch; checkpoints every 2 steps, so that steps are done again after a kill."""
    whole, killed, workers = (tmp_path / name for name in ("whole", "killed", "workers"))
    more = ["epochs=2", "run.checkpoint_every=2"]
    first, second = sorted(random.Random(3).sample([3, 5, 9, 11], 2))  # not right behind a checkpoint
    statuses, output = series(
        Task("ssd_det.train", arguments(whole, *more)),
        Task("ssd_det.train", arguments(killed, *more), first),
        Task("ssd_det.train", arguments(killed, *more), second),
        Task("ssd_det.train", arguments(killed, *more)),
        Task("ssd_det.train", arguments(workers, *more, "data.workers=2")),
        preload=PRELOAD,
        without=WITHOUT,
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
    task = Task("ssd_det.train", arguments(one, *more))
    statuses, output = series(task, preload=PRELOAD, without=WITHOUT)
    assert statuses == [0], output
    torchrun("ssd_det.train", *arguments(two, *more))
    assert len(losses(one)) == len(losses(two)) == 3
    for step, (a, b) in enumerate(zip(losses(one), losses(two))):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-8), f"step {step + 1}"
    metrics = [read(folder / "metrics.json")["metrics"] for folder in (one, two)]
    assert metrics[0]["AP50"] == pytest.approx(metrics[1]["AP50"], abs=1e-3)
    assert metrics[0]["iou_refined"] == pytest.approx(metrics[1]["iou_refined"], abs=1e-3)
