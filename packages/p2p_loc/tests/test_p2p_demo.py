"""The demo's table and page; its runs are those of the script."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from p2p_loc.demo import BOXES, METRICS, ROUNDS, RUNS, comparison, main
from vireo.testing import call_script


def test_table_has_a_line_for_each_round_and_the_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in zip(RUNS, (3, 1)):
        for seed in (0, 1):
            folder = tmp_path / f"{name}_{seed}"
            folder.mkdir()
            rows = [
                {
                    "round": t,
                    "labels": {"error": 0.4 - 0.1 * t + 0.01 * seed},
                    "metrics": dict.fromkeys(METRICS, 0.5 + 0.1 * t),
                }
                for t in range(count)
            ]
            (folder / "rounds.json").write_text(json.dumps(rows))
    table = comparison(tmp_path, [0, 1])
    assert [row[0] for row in table.rows] == [*ROUNDS, BOXES]
    assert table.rows[1][1] == "0.305 ± 0.007"
    assert table.rows[2][2] == "0.700 ± 0.000"
    assert comparison(tmp_path, [1]).rows[0][1] == "0.410"
    table.show()
    assert "0.305" in capsys.readouterr().out


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are calls of the script inside this process, one at a time."""

    def run(command: list[str], env: object) -> SimpleNamespace:
        outcome = call_script(command[2], *command[3:])
        return SimpleNamespace(returncode=outcome.status)

    monkeypatch.setattr("p2p_loc.demo.subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr("p2p_loc.demo.os.cpu_count", lambda: 1)
    monkeypatch.setattr("vireo.report.html.plot_curves", lambda _: {})  # they take longer than these runs


@pytest.mark.usefixtures("in_place")
def test_a_small_demo(tmp_path: Path) -> None:
    """All runs of one seed on a few small pictures, from the command line to the page."""
    small = ["data.train_images=8", "data.val_images=4", "epochs=1", "eval_every=1", "gallery_images=2"]
    assert main(["--output", str(tmp_path), "--seeds", "0", "--override", *small]) == 0
    page = (tmp_path / "report.html").read_text()
    assert all(title in page for title in (*ROUNDS, BOXES))
    picture = cv2.imread(str(tmp_path / "picture.png"))
    assert picture is not None
    assert picture.shape[1] > len(ROUNDS) * 384  # a cell for each round


@pytest.mark.usefixtures("in_place")
def test_a_failed_run_ends_the_demo(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--seeds", "0", "--override", "refine.mode=nothing"]) == 2
    assert not (tmp_path / "report.html").exists()
