"""Networks out of the folders of runs, and of published settings with weights from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from dqnet_runs import REPORT, done

from dqnet.build import build_network
from dqnet.load import config_of, load_run, load_setting, setting_of
from dqnet.official import to_official
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError
from vireo.testing.runs import copy_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REPORT, lambda *_, **__: None)
        return done(tmp_path_factory.mktemp("load") / "run", "epochs=1")


def test_a_run_is_in_evaluation_mode(run: Path) -> None:
    loaded = load_run(run)
    assert not loaded.network.training
    assert loaded.config.model.arm == loaded.network.arm == "gate"
    with torch.no_grad():
        assert loaded.network(torch.zeros(2, 3, 40, 56)).shape == (2, 1, 40, 56)  # other sides than those of training


def test_untrained_is_where_a_run_of_this_seed_begins(run: Path) -> None:
    one, same = load_run(run, untrained=True).network, load_run(run, untrained=True).network
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    trained = load_run(run).network
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), trained.parameters()))


def test_other_weights(run: Path) -> None:
    images = torch.rand(1, 3, 32, 32)
    best = load_run(run, run / "checkpoints" / "best.pt")
    assert torch.equal(best.network(images), load_run(run).network(images))


def test_mistakes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fresh weights, and those of a file"):
        load_run(run, run / "checkpoints" / "best.pt", untrained=True)
    with pytest.raises(InputError, match=r"holds no config\.yaml"):
        load_run(tmp_path)
    unfinished = copy_of(run, tmp_path / "unfinished")
    (unfinished / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"not finished.*weights="):
        load_run(unfinished)
    other = copy_of(run, tmp_path / "other")
    config = yaml.safe_load((other / "config.yaml").read_text())
    del config["loss"]
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="no configuration of dqnet-train: it has no loss"):
        config_of(other)
    config["loss"], config["model"]["window"] = {"bce": "mean"}, 3
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="rel_pos_h"):
        load_run(other)


def test_torn_weights(run: Path, tmp_path: Path) -> None:
    torn = copy_of(run, tmp_path / "torn")
    content = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_run(torn)


def test_a_setting_with_weights_in_the_authors_layout(tmp_path: Path) -> None:
    """With a small setting in place of theirs."""
    network = build_network(setting_of("demo"))
    save_weights(to_official(network), tmp_path / "state.safetensors")
    loaded = load_setting("demo", tmp_path / "state.safetensors")
    assert not loaded.network.training
    own, theirs = network.state_dict(), loaded.network.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert loaded.config.output_dir == "outputs/demo"


def test_a_setting_that_is_not_there() -> None:
    with pytest.raises(InputError, match="setting: no such experiment of dqnet-train"):
        setting_of("cod_huge")


def test_weights_of_another_setting_are_refused(run: Path) -> None:
    """The run's network has other sizes."""
    with pytest.raises(InputError, match=str(run)):
        load_setting("demo", run)
