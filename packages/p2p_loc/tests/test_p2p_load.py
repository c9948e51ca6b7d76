"""Networks from folders of runs: what is refused, and what building leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from p2p_runs import MODEL, configuration
from safetensors.torch import save_file

from p2p_loc.build import build_localizer
from p2p_loc.load import load_run, load_weights
from vireo.engine import plain
from vireo.engine.finished import save_classes
from vireo.engine.results import write_config
from vireo.errors import InputError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder as it is before the end, with weights of round 0 only."""
    config = configuration(*MODEL)
    folder = tmp_path / "run"
    (folder / "round_0").mkdir(parents=True)
    write_config(folder, plain(config))
    save_classes(folder, [{"id": 4, "name": "person"}, {"id": 9, "name": "boat"}])
    save_file(build_localizer(config.model, 2).state_dict(), folder / "round_0" / "model.safetensors")
    return folder


def test_a_round_of_a_run_that_goes_on(run: Path) -> None:
    loaded = load_run(run, round=0)
    assert (loaded.round, loaded.classes, loaded.category_ids) == (0, ("person", "boat"), (4, 9))
    assert loaded.model.num_classes == 2
    assert not loaded.model.training
    assert loaded.config.model.widths == [4, 8]
    with pytest.raises(InputError, match=r"holds no model\.safetensors: the run is not finished"):
        load_run(run)
    with pytest.raises(InputError, match=r"has no round 3\. choose one of the rounds that it has: 0"):
        load_run(run, round=3)


def test_weights_that_do_not_fit(run: Path) -> None:
    other = build_localizer(configuration(*MODEL).model, 3)
    save_file(other.state_dict(), run / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors"):
        load_run(run, weights=run / "other.safetensors")
    (run / "torn.safetensors").write_bytes(b"12")
    with pytest.raises(InputError, match=r"torn\.safetensors"):
        load_weights(other, run / "torn.safetensors")


def test_folders_that_are_no_runs(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.yaml"):
        load_run(tmp_path)
    (run / "config.yaml").write_text("model: {name: small}\n")
    with pytest.raises(InputError, match="is no configuration of p2p-train: it has no data, refine, eval, rounds"):
        load_run(run)


def test_damaged_classes(run: Path) -> None:
    (run / "classes.json").write_text('["person"]')
    with pytest.raises(InputError, match=r"classes\.json: is no list of classes"):
        load_run(run, round=0)


def test_nothing_is_downloaded_for_weights_that_are_loaded_next(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration("model=reppoints")
    assert config.model.pretrained
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("downloads"))
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("downloads"))
    with torch.device("meta"):
        build_localizer(config.model, 1, fresh=False)
