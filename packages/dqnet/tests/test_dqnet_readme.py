"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import dqnet

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text()


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 1
    names: dict[str, object] = {}
    exec(compile(snippets[0], "README.md", "exec"), names)
    fused, maps, model, scores = (names[name] for name in ("fused", "maps", "model", "scores"))
    assert isinstance(fused, torch.Tensor)
    assert fused.shape == (2, 64, 12, 9)
    assert isinstance(maps, list)
    assert [tuple(x.shape[1:]) for x in maps] == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    assert isinstance(model, dqnet.DQnet)
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert isinstance(scores, dict)
    assert 0 < scores["wFmeasure"] < 1


def test_every_public_name_is_listed_and_importable() -> None:
    table = set(re.findall(r"`(\w+)`", README.split("| name | what |")[1].split("## Speed")[0]))
    assert set(dqnet.__all__) == table
    for name in dqnet.__all__:
        assert getattr(dqnet, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dqnet.nothing  # noqa: B018


def test_every_console_script_and_experiment_is_shown() -> None:
    pyproject = (PACKAGE / "pyproject.toml").read_text()
    scripts = re.findall(r"^(dqnet-[\w-]+) =", pyproject, re.MULTILINE)
    assert len(scripts) == 4
    assert [script for script in scripts if script not in README] == []
    files = {path.stem for path in (PACKAGE / "src" / "dqnet" / "conf" / "experiment").glob("*.yaml")}
    shown = set(re.findall(r"\+experiment=(\w+)", README))
    assert shown
    assert shown <= files
    assert [name for name in files if f"`{name}`" not in README] == []
