"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import if_nas

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text()


def test_python_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 1
    names: dict[str, object] = {}
    exec(compile(snippets[0], "README.md", "exec"), names)
    assert names["crossing"] == [False] * 5, "connections of the reader's graph are interleaved"
    genotype = names["genotype"]
    assert isinstance(genotype, if_nas.Genotype)
    assert genotype.num_nodes[0] <= 6
    assert names["width"] == 56  # of the notes, section 6
    assert capsys.readouterr().out.startswith("Cost(params=")


def test_every_public_name_is_listed_and_importable() -> None:
    table = set(re.findall(r"`(\w+)`", README.split("| name | what |")[1].split("## Speed")[0]))
    assert set(if_nas.__all__) == table
    for name in if_nas.__all__:
        assert getattr(if_nas, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        if_nas.nothing  # noqa: B018


def test_every_console_script_and_experiment_is_shown() -> None:
    pyproject = (PACKAGE / "pyproject.toml").read_text()
    scripts = re.findall(r"^(if-nas-\w+) =", pyproject, re.MULTILINE)
    assert len(scripts) == 6
    assert [script for script in scripts if script not in README] == []
    files = {path.stem for path in (PACKAGE / "src" / "if_nas" / "conf" / "experiment").glob("*.yaml")}
    for name in re.findall(r"\+experiment=(\w+)", README):
        assert name in files
    listed = README.split("| experiments | what |")[1].split("\n\n")[0]
    assert files == set(re.findall(r"`(\w+)`", listed))
