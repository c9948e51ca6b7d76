"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import ssd_det

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_python_snippets_run() -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert snippets
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(compile(snippet, "README.md", "exec"), names)
        better = names["better"]
        assert isinstance(better, list)
        assert [tuple(b.shape) for b in better] == [(1, 4), (2, 4)]


def test_every_public_name_is_listed_and_importable() -> None:
    table = set(re.findall(r"`(\w+)`", README.split("| name | what |")[1].split("### Inside")[0]))
    assert set(ssd_det.__all__) <= table
    for name in ssd_det.__all__:
        assert getattr(ssd_det, name).__doc__


def test_every_console_script_is_shown() -> None:
    pyproject = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    for script in re.findall(r"^(ssd-det-\w+) =", pyproject, re.MULTILINE):
        assert script in README
