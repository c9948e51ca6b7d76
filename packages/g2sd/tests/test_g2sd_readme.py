"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import g2sd

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text()


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 1
    names: dict[str, object] = {}
    exec(compile(snippets[0], "README.md", "exec"), names)
    distiller, encoder = names["distiller"], names["encoder"]
    assert isinstance(distiller, g2sd.GenericDistiller)
    assert [name for name, p in distiller.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(key.startswith("teacher") for key in distiller.state_dict())
    assert isinstance(encoder, dict)
    assert names["unexpected"] == []
    assert names["missing"] == ["head.weight", "head.bias"]
    assert isinstance(names["loss"], torch.Tensor)
    assert names["loss"].item() > 0


def test_every_public_name_is_listed_and_importable() -> None:
    table = set(re.findall(r"`(\w+)`", README.split("| name | what |")[1].split("In timm:")[0]))
    assert set(g2sd.__all__) == table
    for name in g2sd.__all__:
        assert getattr(g2sd, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        g2sd.nothing  # noqa: B018


def test_every_console_script_and_experiment_is_shown() -> None:
    pyproject = (PACKAGE / "pyproject.toml").read_text()
    scripts = re.findall(r"^(g2sd-[\w-]+) =", pyproject, re.MULTILINE)
    assert len(scripts) == 8
    assert [script for script in scripts if script not in README] == []
    files = {path.stem for path in (PACKAGE / "src" / "g2sd" / "conf" / "experiment").glob("*.yaml")}
    shown = set(re.findall(r"\+experiment=(\w+)", README))
    assert shown
    assert shown <= files
    missing = [name for name in files if f"`{name}`" not in README and not name.startswith("demo_")]
    assert missing == []
