"""What a run and an evaluation say about data that was left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from vireo.engine import Run, print_skipped, say_skipped, skipped_lines, write_skipped

CLEAN = SimpleNamespace(skipped=[])
BROKEN = SimpleNamespace(skipped=["a.jpg: damaged", "b.jpg: missing"])
AGAIN = SimpleNamespace(skipped=["b.jpg: missing", "c.jpg: none"])


def test_every_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = skipped_lines(CLEAN, BROKEN, AGAIN)
    assert lines == ["a.jpg: damaged", "b.jpg: missing", "c.jpg: none"]
    print_skipped(lines)
    assert capsys.readouterr().err.splitlines() == [f"skipped: {line}" for line in lines]


def test_a_run_lists_them_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, accelerator="cpu")
    run.launch()
    say_skipped(run, CLEAN, BROKEN)
    assert "skipped: a.jpg: damaged\nskipped: b.jpg: missing" in capsys.readouterr().err
    write_skipped(run, BROKEN, AGAIN)
    assert (tmp_path / "skipped.txt").read_text() == "a.jpg: damaged\nb.jpg: missing\nc.jpg: none\n"
    write_skipped(run, CLEAN)  # the run was done again with whole data
    assert not (tmp_path / "skipped.txt").exists()
