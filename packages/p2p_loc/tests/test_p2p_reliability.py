"""All rounds are the same whether they are killed, stopped, decoded by workers, or spread over processes.

The engine's, the loader's and the rounds' own tests cover each mechanism; here they meet.
"""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
from p2p_runs import REPORT, TINY, done, rows, train

from vireo.testing.runs import copy_of, differing, losses, read
from vireo.testing.series import Task, series, torchrun

PRELOAD = [f"p2p_loc.{module}" for module in ("train", "run_folder", "build", "data", "detection", "rounds", "small")]
PRELOAD += ["vireo.engine.run", "torch._dynamo", "p2p_loc.people"]  # dynamo is imported by optimizers


def require_same(whole: Path, other: Path) -> None:
    """Final weights, labels, detections, losses and metrics of every round."""
    for name in ("labels/round_0", "detections/round_0", "labels/round_1"):
        assert (whole / f"{name}.json").read_bytes() == (other / f"{name}.json").read_bytes(), name
    for number in (0, 1):
        assert differing(whole / f"round_{number}", other / f"round_{number}") == []
        assert losses(whole / f"round_{number}") == losses(other / f"round_{number}")
    assert differing(whole, other) == []
    assert rows(whole) == rows(other)


def test_killed_in_every_round_or_stopped(tmp_path: Path) -> None:
    """2 rounds of 6 steps, 2 an epoch; checkpoints every 2 steps, or only when the run is stopped (behind step 4).

    What was stopped goes on with workers.
    """
    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))

    def arguments(folder: Path, *more: str) -> list[str]:
        return [*TINY, "epochs=3", "eval_every=3", "run.checkpoint_every=2", f"output_dir={folder}", *more]

    seldom = "run.checkpoint_every=0"
    statuses, output = series(
        Task("p2p_loc.train", arguments(whole)),
        Task("p2p_loc.train", arguments(killed), 3),  # in round 0
        Task("p2p_loc.train", arguments(killed), 1),  # of round 1, as round 0 goes on behind its step 2
        Task("p2p_loc.train", arguments(killed), 5),
        Task("p2p_loc.train", arguments(killed)),
        Task("p2p_loc.train", arguments(stopped, seldom), 3, signal.SIGTERM),
        Task("p2p_loc.train", arguments(stopped, seldom, "data.workers=2")),
        preload=PRELOAD,
        without=[REPORT],
    )
    kill = -signal.SIGKILL
    assert statuses == [0, kill, kill, kill, 0, 0, 0], output
    resumed = re.findall(r"/(\w+)/round_(\d): resumed at epoch \d, step (\d+)", output)
    assert resumed == [("killed", "0", "2"), ("killed", "1", "4"), ("stopped", "0", "4")], output
    assert len(losses(whole / "round_1")) == 6
    assert losses(whole / "round_0")[0] != losses(whole / "round_0")[-1]
    for folder in (killed, stopped):
        require_same(whole, folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REPORT, lambda *_: None)
        return done(tmp_path_factory.mktemp("finished") / "whole")


@pytest.mark.parametrize("lost", ["detections", "rounds", "labels"])
def test_killed_between_rounds(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """What a process that ended behind the training of round 0 had not written is made again, without training it."""
    monkeypatch.setattr(REPORT, lambda *_: None)
    ended = copy_of(finished, tmp_path / "ended")
    gone = {"detections": ["detections/round_0.json"], "rounds": ["detections/round_0.json", "rounds.json"]}
    for name in ["metrics.json", "labels/round_1.json", *gone.get(lost, [])]:
        (ended / name).unlink()
    shutil.rmtree(ended / "round_1")
    before = (ended / "round_0" / "model.safetensors").stat().st_mtime_ns
    done(ended)
    assert (ended / "round_0" / "model.safetensors").stat().st_mtime_ns == before
    require_same(finished, ended)


def test_removed_rows_of_the_rounds_are_made_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the metrics of the rounds before. Fewer rounds than there are would leave some behind: refused."""
    monkeypatch.setattr(REPORT, lambda *_: None)
    ended = copy_of(finished, tmp_path / "ended")
    for name in ("metrics.json", "rounds.json"):
        (ended / name).unlink()
    done(ended)
    require_same(finished, ended)
    message = train(f"output_dir={ended}", "rounds=0").mistake()
    assert "it has round 1 already, of more refinements than rounds=0" in message
    assert read(ended / "metrics.json")["finished"]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 evaluation pictures and 9 training pictures, which processes do not share evenly in prediction."""
    monkeypatch.setattr(REPORT, lambda *_: None)
    more = ["data.val_images=5", "data.train_images=9", "optim.name=sgd", "optim.lr=0.01", "optim.warmup_steps=0"]
    one = done(tmp_path / "one", *more)
    two = tmp_path / "two"
    torchrun("p2p_loc.train", *TINY, *more, "gallery_images=1", f"output_dir={two}")
    assert read(two / "metrics.json")["finished"]
    assert (two / "gallery" / "locations_00.png").is_file()  # drawn by one process, while the other waits
    for number in (0, 1):
        pairs = list(zip(losses(one / f"round_{number}"), losses(two / f"round_{number}"), strict=True))
        assert len(pairs) == 4
        for step, (a, b) in enumerate(pairs):
            assert a == pytest.approx(b, rel=1e-3), f"round {number}, step {step + 1}"
    found = [read(folder / "detections" / "round_0.json") for folder in (one, two)]
    assert abs(len(found[0]) - len(found[1])) <= 0.01 * len(found[0])
    assert len(found[0]) > 100
    labels = [[row["bbox"] for row in read(folder / "labels" / "round_1.json")["annotations"]] for folder in (one, two)]
    near = [a == pytest.approx(b, abs=0.05) for a, b in zip(*labels, strict=True)]
    assert sum(near) >= 0.9 * len(near)  # near ties go to another neighbour
    for a, b in zip(rows(one), rows(two)):
        assert a["metrics"]["AP@1"] == pytest.approx(b["metrics"]["AP@1"], abs=0.02)
