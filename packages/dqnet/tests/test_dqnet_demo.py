"""The demo's table and picture; its runs are those of the script."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from dqnet.demo import ARMS, METRICS, PICTURES, comparison, main
from vireo.testing import call_script


def test_table_has_a_line_for_each_arm_and_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, name in enumerate([*ARMS, "start"]):
        for seed in (0, 1):
            folder = tmp_path / f"{name}_{seed}"
            folder.mkdir()
            metrics = dict.fromkeys(METRICS, 0.1 * place + 0.01 * seed)
            (folder / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    table = comparison(tmp_path, [0, 1])
    assert [row[0] for row in table.rows] == [*ARMS.values(), "transformer, first stage"]
    assert table.rows[3][1] == "0.305 ± 0.007"
    assert comparison(tmp_path, [1]).rows[0][1:] == ("0.010",) * len(METRICS)
    table.show()
    assert "0.305" in capsys.readouterr().out


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are calls of the script inside this process, one at a time."""

    def run(command: list[str], env: object) -> SimpleNamespace:
        outcome = call_script(command[2], *command[3:])
        return SimpleNamespace(returncode=outcome.status)

    monkeypatch.setattr("dqnet.demo.subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr("dqnet.demo.os.cpu_count", lambda: 1)
    monkeypatch.setattr("dqnet.report.write_run_report", lambda *_, **__: None)  # curves take longer than these runs


@pytest.mark.usefixtures("in_place")
def test_a_small_demo(tmp_path: Path) -> None:
    """All arms of one seed on a few small pictures, from the command line to the page."""
    tiny = ["data.train_images=8", "data.val_images=6", "data.batch_size=4", "epochs=1", "eval_every=1"]
    tiny += ["model.vit.depth=1", "model.vit.embed_dim=16", "model.vit.num_heads=2", "model.resnet.width=4"]
    small = [*tiny, "model.heads=2", "model.head_width=4", "gallery_images=0"]
    assert main(["--output", str(tmp_path), "--seeds", "0", "--override", *small]) == 0
    page = (tmp_path / "report.html").read_text()
    assert all(title in page for title in ARMS.values())
    picture = cv2.imread(str(tmp_path / "picture.png"))
    assert picture is not None
    height, width = picture.shape[:2]
    assert width / height == pytest.approx((2 + len(ARMS)) / PICTURES, rel=0.15)


@pytest.mark.usefixtures("in_place")
def test_a_failed_run_ends_the_demo(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--seeds", "0", "--override", "model.arm=nothing"]) == 2
    assert not (tmp_path / "report.html").exists()
