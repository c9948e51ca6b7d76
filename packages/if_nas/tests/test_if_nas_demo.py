"""The demo's table, picture and page; its runs are those of the scripts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from if_nas.demo import DISTANCES, RANDOM, SEARCHES, comparison, main
from vireo.testing import call_script


def test_table_has_a_line_for_each_way_to_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        for number, name in enumerate([*SEARCHES, "random"]):
            folder = tmp_path / f"{name}_{seed}"
            (folder / "alone").mkdir(parents=True)
            alone = {"depth": 12 + number, "width": 8, "top1": 90.0 + seed}
            (folder / "alone" / "metrics.json").write_text(json.dumps({"metrics": alone}))
            if name != "random":
                metrics = {"preference": 0.1 + 0.02 * seed, "edge_weight": dict.fromkeys(DISTANCES, 0.5)}
                (folder / "metrics.json").write_text(json.dumps({"metrics": metrics, "wall_s": 120.0}))
    table = comparison(tmp_path, [0, 1])
    assert [row[0] for row in table.rows] == ["IF-NAS", "DNAS", RANDOM]
    assert table.rows[0][1] == "0.110 ± 0.014"
    assert table.rows[0][-1] == "90.5 ± 0.7"
    assert table.rows[2][1:7] == ("",) * 6
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1
    single = comparison(tmp_path, [1])
    assert single.rows[1][1:] == ("0.120", *["0.500"] * 4, "120", "13.0", "8.0", "91.0")
    table.show()
    assert "0.110" in capsys.readouterr().out


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are calls of the scripts inside this process, one at a time."""

    def run(command: list[str], env: object) -> SimpleNamespace:
        return SimpleNamespace(returncode=call_script(command[2], *command[3:]).status)

    monkeypatch.setattr("if_nas.demo.subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr("if_nas.demo.os.cpu_count", lambda: 1)
    monkeypatch.setattr("vireo.report.html.plot_curves", lambda _: {})  # they take longer than these runs


@pytest.mark.usefixtures("in_place")
def test_a_small_demo(tmp_path: Path) -> None:
    """Both searches, what they find and a network drawn at random, from the command line to the page."""
    small = ["data.train_images=64", "data.val_images=32", "epochs=1", "eval_every=1"]
    assert main(["--output", str(tmp_path), "--override", *small]) == 0
    page = (tmp_path / "report.html").read_text()
    assert all(title in page for title in ("IF-NAS: the demo", "DNAS", RANDOM, "Mean edge weight by distance"))
    picture = cv2.imread(str(tmp_path / "picture.png"))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] > 600  # two rows of two drawings
    assert json.loads((tmp_path / "random_0" / "alone" / "metrics.json").read_text())["metrics"]["depth"] >= 3


@pytest.mark.usefixtures("in_place")
def test_a_failed_run_ends_the_demo(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--override", "optim.lr=-1"]) == 2
    assert not (tmp_path / "report.html").exists()
