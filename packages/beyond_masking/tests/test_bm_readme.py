"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import beyond_masking

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text()


def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 1
    names: dict[str, object] = {}
    exec(compile(snippets[0], "README.md", "exec"), names)
    logits, pictures, classifier, model = (names[name] for name in ("logits", "pictures", "classifier", "model"))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (4, 5)
    assert isinstance(pictures, dict)
    assert {name: tuple(picture.shape) for name, picture in pictures.items()} == {
        "original": (4, 3, 42, 42),
        "input": (4, 3, 32, 32),
        "prediction": (4, 3, 32, 32),
        "target": (4, 3, 32, 32),
    }
    assert isinstance(classifier, torch.nn.Module)
    assert isinstance(model, beyond_masking.TokenPretrainModel)
    trained, copied = model.encoder.state_dict(), classifier.state_dict()
    assert all(torch.equal(trained[key], copied[key]) for key in trained if key.startswith(("blocks", "patch_embed")))


def test_every_public_name_is_listed_and_importable() -> None:
    table = set(re.findall(r"`(\w+)`", README.split("| name | what |")[1].split("`vireo.backbones`")[0]))
    assert set(beyond_masking.__all__) == table
    for name in beyond_masking.__all__:
        assert getattr(beyond_masking, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        beyond_masking.nothing  # noqa: B018


def test_every_console_script_and_experiment_is_shown() -> None:
    pyproject = (PACKAGE / "pyproject.toml").read_text()
    scripts = re.findall(r"^(beyond-masking-\w+) =", pyproject, re.MULTILINE)
    assert len(scripts) == 5
    assert [script for script in scripts if script not in README] == []
    files = {path.stem for path in (PACKAGE / "src" / "beyond_masking" / "conf" / "experiment").glob("*.yaml")}
    shown = set(re.findall(r"\+experiment=(\w+)", README))
    assert shown
    assert shown <= files
    families = {name.rpartition("_")[0] + "_" if name.rpartition("_")[2].isdigit() else name for name in files}
    assert [name for name in families if f"`{name}`" not in README and name not in shown] == []
