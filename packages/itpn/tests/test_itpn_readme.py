"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import itpn

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text()


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 1
    names: dict[str, object] = {}
    exec(compile(snippets[0], "README.md", "exec"), names)
    model, maps, logits, pyramid = (names[name] for name in ("model", "maps", "logits", "pyramid"))
    assert isinstance(model, itpn.MaskedPyramidAutoencoder)
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert isinstance(maps, dict)
    assert [tuple(found.shape) for found in maps.values()] == [
        (1, 64, 24, 40),
        (1, 64, 12, 20),
        (1, 64, 6, 10),
        (1, 64, 3, 5),
        (1, 64, 1, 2),
    ]
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 5)
    assert isinstance(pyramid, torch.nn.Module)
    found = pyramid(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape) for level in found] == [(1, 256, 16 >> i, 24 >> i) for i in range(4)]


def test_every_public_name_is_listed_and_importable() -> None:
    table = set(re.findall(r"`(\w+)`", README.split("| name | what |")[1].split("In timm:")[0]))
    assert set(itpn.__all__) == table
    for name in itpn.__all__:
        assert getattr(itpn, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        itpn.nothing  # noqa: B018


def test_every_console_script_and_experiment_is_shown() -> None:
    pyproject = (PACKAGE / "pyproject.toml").read_text()
    scripts = re.findall(r"^(itpn-\w+) =", pyproject, re.MULTILINE)
    assert len(scripts) == 7
    assert [script for script in scripts if script not in README] == []
    files = {path.stem for path in (PACKAGE / "src" / "itpn" / "conf" / "experiment").glob("*.yaml")}
    shown = set(re.findall(r"\+experiment=(\w+)", README))
    assert shown
    assert shown <= files
    missing = [name for name in files if f"`{name}`" not in README and not re.match(r"fast_|(segment_)?demo$", name)]
    assert missing == []
    assert {"fast_tiny_224", "fast_large_640"} <= files


def test_every_timm_model_is_named() -> None:
    from vireo.backbones import load_registrations

    load_registrations()
    import timm

    short = {name for name in timm.list_models(module="timm_models") if name.startswith(("itpn", "hivit", "fast_itpn"))}
    assert short
    named = {name for name in short if not re.search(r"_patch16_\d+$", name)}
    assert [name for name in named if f"`{name}`" not in README] == []
