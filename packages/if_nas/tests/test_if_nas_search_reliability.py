"""A search is the same run whether it is killed, stopped, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet the turns of nodes, the momentum of edges
that rest, and the files of each epoch.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from if_nas_searches import REPORT, TINY, call, search

from vireo.testing.runs import differing, last_checkpoint, logged, losses, read, weights
from vireo.testing.series import Task, series, torchrun

PRELOAD = [f"if_nas.{module}" for module in ("data", "evaluation", "search", "search_build", "search_report", "cost")]
PRELOAD += ["vireo.engine.run", "torch._dynamo"]  # the latter is imported by optimizers
TIME = "cpu_hours"  # the only metric that another run may have otherwise


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, lambda *_, **__: None)


def optimizer_state(folder: Path) -> dict[str, torch.Tensor]:
    """What the last checkpoint's optimizer remembers: momenta, and which nodes have had their turn."""
    state: dict[int, dict[str, Any]] = last_checkpoint(folder)["optimizer"]["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each epoch, but for the time."""
    return [{k: v for k, v in line["metrics"].items() if k != TIME} for line in logged(folder, "eval")]


def require_same(whole: Path, other: Path) -> None:
    """Final weights with the architecture's, optimizer, log, metrics and what was derived after each epoch."""
    assert differing(whole, other) == []
    a, b = optimizer_state(whole), optimizer_state(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a if isinstance(a[name], torch.Tensor))
    assert losses(whole) == losses(other)
    assert [line["monitors"] for line in logged(whole)] == [line["monitors"] for line in logged(other)]
    assert evaluations(whole) == evaluations(other)
    files = sorted(path.relative_to(whole) for path in [*whole.glob("genotypes/*"), whole / "genotype.json"])
    assert len(files) == 3
    assert files == sorted(path.relative_to(other) for path in [*other.glob("genotypes/*"), other / "genotype.json"])
    assert all((whole / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_killed_twice_or_stopped_inside_epochs(tmp_path: Path) -> None:
    """6 steps, 3 an epoch, a turn of 2 steps; checkpoints every 2 steps, or only when the run is stopped."""
    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))

    def arguments(folder: Path, *more: str) -> list[str]:
        return [*TINY, "schedule.turn=2", "arch_optim.start_epoch=1", f"output_dir={folder}", *more]

    often = ["run.checkpoint_every=2"]
    statuses, output = series(
        Task("if_nas.search", arguments(whole, *often)),
        Task("if_nas.search", arguments(killed, *often), 3),
        Task("if_nas.search", arguments(killed, *often), 5),
        Task("if_nas.search", arguments(killed, *often)),
        Task("if_nas.search", arguments(stopped), 4, signal.SIGTERM),
        Task("if_nas.search", arguments(stopped)),
        preload=PRELOAD,
        without=[REPORT],
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [2, 4, 5], output  # killed before a step is saved; a stopped run ends its step, and saves
    assert len(losses(whole)) == 6
    require_same(whole, killed)
    require_same(whole, stopped)


def test_never_resume(tmp_path: Path) -> None:
    """A search that starts anew leaves nothing of the one before."""
    search(tmp_path, "epochs=3")
    again = search(tmp_path, "epochs=1", "seed=1", "resume=never")
    assert [path.name for path in (again / "genotypes").iterdir()] == ["epoch_001.json"]
    assert read(again / "genotype.json")["epoch"] == 1
    assert len(losses(again)) == 3


def test_other_settings_in_the_same_folder(tmp_path: Path) -> None:
    """They are refused before anything is overwritten; more epochs go on."""
    folder = search(tmp_path / "run", "epochs=1")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for change in ("schedule.name=dnas", "space.nodes=[2,2,2]", "model.width=3"):
        message = call(f"output_dir={folder}", "epochs=2", change).mistake()
        assert f"{folder}: holds another search: {change.split('=')[0]} is " in message
        assert "resume=never" in message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert len(losses(search(folder, "epochs=2"))) == 6


def test_folder_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("genotype: if_l8\n")
    assert f"{tmp_path}: holds a run of if-nas-train" in call(f"output_dir={tmp_path}").mistake()


@pytest.mark.slow
def test_two_processes_search_what_one_does(tmp_path: Path) -> None:
    """21 images to evaluate, which they do not share evenly; in the fourth turn no node is active and no edge learns.

    Sums are rounded in another order.
    """
    settings = [*TINY, "data.val_images=21", "schedule.period=4", "schedule.turn=1"]
    settings += ["arch_optim.start_epoch=0"]
    one, two = search(tmp_path / "one", settings=settings), tmp_path / "two"
    torchrun("if_nas.search", *settings, f"output_dir={two}")
    assert len(losses(one)) == len(losses(two)) == 6
    for step, (a, b) in enumerate(zip(losses(one), losses(two))):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6), f"step {step + 1}"
    torch.testing.assert_close(weights(one)["arch.beta"], weights(two)["arch.beta"], rtol=0.01, atol=1e-4)
    for a, b in zip(evaluations(one), evaluations(two)):
        assert a["edge_weight"] == pytest.approx(b["edge_weight"], abs=1e-4)
