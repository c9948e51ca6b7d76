"""What is read from the folder of a finished run, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vireo.engine.checkpoint import save_weights
from vireo.engine.finished import (
    changed_data,
    class_name,
    final_weights,
    initial_weights,
    load_finished,
    read_classes,
    read_config,
    require_classes,
    save_classes,
)
from vireo.errors import InputError


def test_classes_come_back_in_their_order(tmp_path: Path) -> None:
    save_classes(tmp_path, ["b", "a", "ä"])
    assert read_classes(tmp_path, "x-train", class_name) == ("b", "a", "ä")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ('["a"', "cannot be read"),
        ('["a", 1]', r"is no list of classes \(1 is no name\)"),
        ('{"a": 1}', "is no list of classes"),
        ("3", "is no list of classes"),
    ],
)
def test_a_damaged_list_of_classes(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(InputError, match=rf"classes\.json: {words}.*restore the file; x-train writes it"):
        read_classes(tmp_path, "x-train", class_name)


def test_a_configuration_must_have_its_keys(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.yaml. give the folder of a run of x-train with run="):
        read_config(tmp_path, "x-train", ())
    (tmp_path / "config.yaml").write_text("model: {name: a}\ndata: {format: generated}\n")
    assert read_config(tmp_path, "x-train", ("model", "data")).model.name == "a"
    with pytest.raises(InputError, match="is no configuration of x-train: it has no seed, optim"):
        read_config(tmp_path, "x-train", ("model", "seed", "optim"))
    (tmp_path / "config.yaml").write_text("model")
    with pytest.raises(InputError, match="is no configuration of x-train: it has no model"):
        read_config(tmp_path, "x-train", ("model",))


def test_weights_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match=r"the run is not finished. go on training\.$"):
        final_weights(tmp_path)
    (tmp_path / "checkpoints" / "best.pt").touch()
    with pytest.raises(InputError, match=r"or take a checkpoint with weights=.*best\.pt"):
        final_weights(tmp_path)
    with pytest.raises(InputError, match=r"holds no model\.safetensors: no run, or one that is not finished"):
        initial_weights(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.touch()
    assert final_weights(tmp_path) == initial_weights(tmp_path) == initial_weights(str(weights)) == weights


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["a", "b", "d"], r"not among the model's: d; absent: c\)"),
        (["a", "b"], r"\(absent: c\)"),
        (["a", "c", "b"], r"\(1: 'c' instead of 'b'\)"),
        (["a", "b", "c", "c"], "some are named twice"),
        (["a", "b", "c", *"efghijk"], r"\(not among the model's: e, f, g, h, i and 2 more\)"),
    ],
)
def test_other_classes_than_the_models(given: list[str], words: str) -> None:
    require_classes(["a", "b", "c"], "abc", "here")
    with pytest.raises(InputError, match=f"^here: its classes are not the model's .*{words}"):
        require_classes(given, "abc", "here")


def test_changes_of_the_data() -> None:
    data = OmegaConf.create({"format": "coco", "root": None, "workers": 2})
    change: Callable[..., object] = lambda **values: changed_data(data, OmegaConf.create(values))  # noqa: E731
    assert change(root="/x", workers=None, split=None) == {"format": "coco", "root": "/x", "workers": 2}
    with pytest.raises(
        InputError, match=r"^data\.split: the run's data \(data=coco\) has no such setting. it has format"
    ):
        change(split="val")


def build(config: Any, classes: int) -> nn.Linear:
    return nn.Linear(config.model.width, classes)


def test_the_network_of_a_run(tmp_path: Path) -> None:
    save_classes(tmp_path, ["a", "b"])
    content = {"model": {"width": None}, "data": {}, "head": {}, "seed": 3}
    OmegaConf.save(OmegaConf.create(content), tmp_path / "config.yaml")
    trained = nn.Linear(5, 2)
    save_weights(trained.state_dict(), tmp_path / "model.safetensors")

    def complete(config: DictConfig, state: Any) -> None:
        config.model.width = state["weight"].shape[1]

    network, config, classes = load_finished(tmp_path, "x-train", "head", build, complete=complete)
    assert torch.equal(network.weight, trained.weight)
    assert (network.training, config.model.width, classes) == (False, 5, ("a", "b"))

    content["model"] = {"width": 4}
    OmegaConf.save(OmegaConf.create(content), tmp_path / "config.yaml")
    with pytest.raises(InputError, match="does not fit"):
        load_finished(tmp_path, "x-train", "head", build)
    with pytest.raises(InputError, match="it has no body"):
        load_finished(tmp_path, "x-train", "body", build)
    first, second = (load_finished(tmp_path, "x-train", "head", build, untrained=True)[0] for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    save_weights(first.state_dict(), tmp_path / "other.safetensors")
    given, _, _ = load_finished(tmp_path, "x-train", "head", build, tmp_path / "other.safetensors")
    assert torch.equal(given.weight, first.weight)
