"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import fgc

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text()


def test_python_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 1
    names: dict[str, object] = {}
    exec(compile(snippets[0], "README.md", "exec"), names)
    predicted = names["predicted"]
    assert isinstance(predicted, torch.Tensor)
    assert predicted.shape == (1, 1000)
    assert predicted.isfinite().all()
    assert 0.4 < float(capsys.readouterr().out) < 0.5


def test_every_public_name_is_listed_and_importable() -> None:
    table = set(re.findall(r"`(\w+)`", README.split("| name | what |")[1].split("## Real speed")[0]))
    assert set(fgc.__all__) == table
    for name in fgc.__all__:
        assert getattr(fgc, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fgc.nothing  # noqa: B018


def test_every_console_script_and_experiment_family_is_shown() -> None:
    pyproject = (PACKAGE / "pyproject.toml").read_text()
    scripts = re.findall(r"^(fgc-\w+) =", pyproject, re.MULTILINE)
    assert len(scripts) == 3
    assert [script for script in scripts if script not in README] == []
    files = {path.stem for path in (PACKAGE / "src" / "fgc" / "conf" / "experiment").glob("*.yaml")}
    for name in re.findall(r"\+experiment=(\w+)", README):
        assert name in files
