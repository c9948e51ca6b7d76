"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import p2p_loc
from p2p_loc.rounds import Rounds

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text()


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 1
    names: dict[str, object] = {}
    exec(compile(snippets[0], "README.md", "exec"), names)
    result, error, metrics = (names[name] for name in ("result", "error", "metrics"))
    assert isinstance(result, Rounds)
    errors = [entry.statistics["error"] for entry in result.rounds]
    assert errors[0] is not None
    assert isinstance(error, float)
    assert error == errors[2] < errors[0]  # the stand-in detects the true boxes
    assert isinstance(metrics, dict)
    assert metrics["AP@0.5"] == pytest.approx(100 / 101)
    assert list(tmp_path.iterdir()) == []


def test_every_public_name_is_listed_and_importable() -> None:
    table = set(re.findall(r"`(\w+)`", README.split("| name | what |")[1].split("## Speed")[0]))
    assert set(p2p_loc.__all__) == table
    for name in p2p_loc.__all__:
        assert getattr(p2p_loc, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        p2p_loc.nothing  # noqa: B018


def test_every_console_script_and_experiment_is_shown() -> None:
    pyproject = (PACKAGE / "pyproject.toml").read_text()
    scripts = re.findall(r"^(p2p-[\w-]+) = ", pyproject, re.MULTILINE)
    assert len(scripts) == 5
    assert [script for script in scripts if script not in README] == []
    files = {path.stem for path in (PACKAGE / "src" / "p2p_loc" / "conf" / "experiment").glob("*.yaml")}
    shown = set(re.findall(r"\+experiment=(\w+)", README))
    assert shown
    assert shown <= files
    assert [name for name in files if f"`{name}`" not in README] == []
