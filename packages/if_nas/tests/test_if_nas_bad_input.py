"""Bad input to training and evaluation: one message with place and remedy, and exit status 2, never a traceback."""

from __future__ import annotations

import errno
import inspect
import os
import pickle
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from if_nas_runs import FOLDER, GENERATED, IMAGENET, call, chain, train, write_folders
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from if_nas.train import main
from vireo.errors import InputError
from vireo.testing.runs import copy_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]


script = inspect.unwrap(main)  # what the console script does with a configuration


@cache
def composed(data: str) -> Any:
    """The configuration of ``if-nas-train`` with another kind of data."""
    with initialize_config_module("if_nas.conf", version_base="1.3"):
        return compose("train", [f"data={data}"])


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and curves take longer than these runs."""
    monkeypatch.setattr("if_nas.train_report.write_run_report", lambda *_: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("if_nas.train_report.write_run_report", lambda *_: None)
        train(folder, "epochs=1")
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["genotype=if_l9"], "if_l9: is no genotype. give a JSON file, the folder of a search, or a released name"),
        (["genotype=null"], "genotype: None is no text. give one, such as if_l8_keep1"),
        (["genotype=[a]"], "genotype: ['a'] is no text"),
        (["genotype=nowhere.json"], "nowhere.json: cannot be read (No such file"),
        (["epochs=0"], "epochs: 0 is no whole number from 1. give one"),
        (["epochs=1.5"], "epochs: 1.5 is no whole number from 1"),
        (["eval_every=0"], "eval_every: 0 is no whole number from 1"),
        (["seed=-1"], "seed: -1 is no whole number from 0"),
        (["compile=1"], "compile: 1 is neither true nor false"),
        (["label_smoothing=1.5"], "label_smoothing: 1.5 is no number from 0 to 1"),
        (["auxiliary_weight=x"], "auxiliary_weight: 'x' is no number from 0"),
        (["model.width=0"], "model.width: 0 is no whole number from 1. give one, or null"),
        (["model.width=wide"], "model.width: 'wide' is no whole number from 1"),
        (["model.width=null"], "model: give exactly one of model.width and model.max_macs"),
        (["model.max_macs=1e6"], "give exactly one of model.width and model.max_macs"),
        (["model.width=null", "model.max_macs=0"], "model.max_macs: 0 is no number above 0. give one, or null"),
        (["model.width=null", "model.max_macs=10"], "max_macs: no width fits"),
        (["model.variant=svhn"], "model.variant: unknown value 'svhn'. use one of imagenet, cifar"),
        (["model.cells=3"], "model.cells: this genotype is of stages, not of cells"),
        (["model.cells=x"], "model.cells: 'x' is no whole number from 1"),
        (["genotype=darts_v2", "model.cells=2"], "cells"),
        (["model.drop_path=0.1", "compile=true"], "compile: drop path changes at every epoch"),
        (["model.drop_path=1"], "drop_path 1 is no rate"),
        (["model.drop_path=-0.1"], "model.drop_path: -0.1 is no number from 0 to 1"),
        (["model.auxiliary=yes_please"], "model.auxiliary: 'yes_please' is neither true nor false"),
        (["model.auxiliary=true"], "auxiliary head: the map after stage 2 is 8x8, the head needs 16x16"),
        (["optim.lr=0"], "optim.lr: 0 is no number above 0"),
        (["optim.lr=fast"], "optim.lr: 'fast' is no number above 0"),
        (["optim.momentum=2"], "optim.momentum: 2 is no number from 0 to 1"),
        (["optim.momentum=1"], "optim.momentum: 1 is no number from 0 to 1, not included"),
        (["optim.warmup_epochs=2"], "optim.warmup_epochs: 2 of 2 epochs"),
        (["paper_metrics=high"], "paper_metrics: 'high' is no list of numbers with names"),
        (["optim.weight_decay=-1"], "optim.weight_decay: -1 is no number from 0"),
        (["optim.schedule=step"], "optim.schedule: unknown value 'step'. use one of linear, cosine, linear_tail"),
        (["optim.schedule=linear_tail"], "optim.schedule: linear_tail needs more than 5 epochs"),
        (["optim.min_lr=0.5"], "optim.min_lr: 0.5 is no number from 0 to 0.1"),
        (["optim.warmup_epochs=-1"], "optim.warmup_epochs: -1 is no whole number from 0"),
        (["data.format=coco"], "data.format: unknown value 'coco'. use one of generated, cifar, folder"),
        (["data.batch_size=1"], "data.batch_size: 1 is no whole number from 2"),
        (["data.batch_size=many"], "data.batch_size: 'many' is no whole number from 2"),
        (["data.batch_size=65"], "64 samples do not make one training batch of 65"),
        (["data.eval_batch_size=0"], "data.eval_batch_size: 0 is no whole number from 1"),
        (["data.image_size=16"], "data.image_size: 16 is no list of 2 whole numbers from 1. write [32,32]"),
        (["data.image_size=[16,x]"], "data.image_size: [16, 'x'] is no list of 2 whole numbers"),
        (["data.image_size=[8,8]"], "image_size (8, 8) is too small"),
        (["data.train_images=0"], "data.train_images: 0 is no whole number from 1"),
        (["data.num_classes=1"], "data.num_classes: 1 is no whole number from 2"),
        (["data.noise=-1"], "data.noise: -1 is no number from 0"),
        (["data.mean=[1,2]"], "data.mean: [1, 2] is no list of 3 numbers. write [127,127,127]"),
        (["data.std=[0,64,64]"], "data.std: [0, 64, 64] is no list of 3 numbers"),
        (["data.flip=2"], "data.flip: 2 is no number from 0 to 1"),
        (["data.crop_padding=-1"], "data.crop_padding: -1 is no whole number from 0"),
        (["data.cutout=0"], "data.cutout: 0 is no whole number from 2. give one, or null"),
        (["data.cutout=3"], "data.cutout: side 3 is not positive and even"),
        (["data.workers=null"], "data.workers: None is no whole number from 0"),
        (["data.on_error=ignore"], "data.on_error: unknown value 'ignore'. use one of raise, skip"),
        (["data.resident=false"], "data.resident: this data is always kept on the device"),
        (["data.resident=maybe"], "data.resident: 'maybe' is neither true nor false"),
    ],
)
def test_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    """All of it is known before training."""
    settings = [*GENERATED, chain(tmp_path), f"output_dir={tmp_path}/run", *arguments]
    with pytest.raises(InputError, match=re.escape(words)):
        script(OmegaConf.merge(composed("generated"), OmegaConf.from_dotlist(settings)))
    assert "step 1" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optim.lrr=1"], "nearest key is 'optim.lr'"),
        (["data=cifar11"], "nearest is data=cifar10"),
        (["model=null"], "model: None is no group of settings"),
        (["optim.lr=nan"], "optim.lr: nan is no number above 0"),
        (["+paper_metrics.top1=high"], "paper_metrics: {'top1': 'high'} is no list of numbers with names"),
        (["epochs=-1"], "epochs: -1 is no whole number from 1"),
        (["data.image_size=16"], "data.image_size: 16 is no list of 2 whole numbers from 1. write [32,32]"),
    ],
)
def test_command_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    outcome = call("train", *GENERATED, chain(tmp_path), f"output_dir={tmp_path}/run", *arguments)
    assert words in outcome.mistake()


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        (FOLDER, [], "data.root: has no value. give the folder of the data with data.root=DIR"),
        (FOLDER, ["data.root=3"], "data.root: 3 is no text"),
        (FOLDER, ["data.root=/nowhere"], "/nowhere/train: there is no such split"),
        (FOLDER, ["data.train_per_class=0"], "data.train_per_class: 0 is no whole number from 1. give one, or null"),
        (FOLDER, ["data.root=ROOT", "data.train_per_class=9"], "9 images per class cannot be had: class 'ant' has 3"),
        (FOLDER, ["data.root=ROOT", "data.val_split=gone"], "gone: there is no such split"),
        (FOLDER, ["data.check_images=all"], "data.check_images: unknown value 'all'"),
        (FOLDER, ["data.classes_file=[1]"], "data.classes_file: [1] is no text"),
        (FOLDER, ["data.root=ROOT", "data.classes_file=/none.txt"], "/none.txt: cannot be read"),
        (FOLDER, ["data.root=ROOT", "data.resident=false"], "data.resident: this data is always kept on the device"),
        (IMAGENET, ["data.crop_size=0"], "data.crop_size: 0 is no whole number from 1"),
        (IMAGENET, ["data.image_size=[64,64]"], "data.image_size: [64, 64] contradicts data.crop_size=32"),
        (IMAGENET, ["data.image_size=64"], "data.image_size: 64 is no list of 2 whole numbers from 1. write [224,224]"),
        (IMAGENET, ["data.resident=true"], "data.resident: large images are cropped by workers"),
        (IMAGENET, ["data.color_jitter=[1]"], "is no list of 4 numbers from 0. write [0.4,0.4,0.4,0.4]"),
        (IMAGENET, ["data.color_jitter=[0.4,0.4,0.4,0.7]"], "data.color_jitter: hue 0.7 is above 0.5"),
        (IMAGENET, ["data.color_jitter=0.4"], "data.color_jitter: 0.4 is no list of 4 numbers from 0"),
        (IMAGENET, ["data.root=ROOT", "data.batch_size=10"], "9 samples do not make one training batch of 10"),
    ],
)
def test_data(tmp_path: Path, data: list[str], arguments: list[str], words: str) -> None:
    root = write_folders(tmp_path / "data", {"train": 3, "val": 1})
    group, *settings = sorted(data, key=lambda override: not override.startswith("data="))
    given = [argument.replace("ROOT", str(root)) for argument in arguments]
    settings = [*settings, chain(tmp_path), f"output_dir={tmp_path}/run", *given]
    with pytest.raises(InputError, match=re.escape(words)):
        script(OmegaConf.merge(composed(group.partition("=")[2]), OmegaConf.from_dotlist(settings)))


def test_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 2})
    broken = root / "train" / "ant" / "000.jpg"
    broken.write_bytes(b"\xff\xd8 no picture")
    for name, data in (("resident", FOLDER), ("workers", IMAGENET)):
        given = [*data, chain(tmp_path), f"data.root={root}", "epochs=1"]
        assert str(broken) in call("train", *given, f"output_dir={tmp_path}/no").mistake()
        outcome = call("train", *given, f"output_dir={tmp_path}/{name}", "data.on_error=skip")
        assert outcome.status == 0, outcome.err
        assert str(broken) in (tmp_path / name / "skipped.txt").read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no genotype: it has no stage1"),
        ("{}", "is no genotype: it has no stage1"),
        ('{"stage1": {}, "stage2": {}, "stage3": {}}', "has no node"),
        ('{"stage1": {"1": [["conv3", 0]]}}', "a genotype of 1 stages"),
        ('{"stage1": {"1": [["conv9", 0]]}, "stage2": {"1": [["skip", 0]]}, "stage3": {"1": [["skip", 0]]}}', "conv9"),
        ('{"normal": [], "reduce": []}', "genotype.json"),
    ],
)
def test_genotype_files(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(content)
    message = call("train", *GENERATED, f"genotype={path}", f"output_dir={tmp_path}/run").mistake()
    assert words in message


def test_folders_of_a_search(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_text("{}")
    message = call("train", *GENERATED, f"genotype={tmp_path}", f"output_dir={tmp_path}/run").mistake()
    assert f"{tmp_path}/genotype.json: is no genotype" in message
    (tmp_path / "empty").mkdir()
    message = call("train", *GENERATED, f"genotype={tmp_path}/empty", f"output_dir={tmp_path}/run").mistake()
    assert f"{tmp_path}/empty/genotype.json: cannot be read" in message


class Evil:
    """Creates a folder when unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def save_foreign(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [torch.save, save_foreign])
def test_a_pickle_that_would_execute_code(run: Path, tmp_path: Path, save: Callable[[Any, Path], object]) -> None:
    weights, trace = tmp_path / "evil.pth", tmp_path / "executed"
    save({"state_dict": Evil(trace)}, weights)
    assert "could execute code" in call("eval", f"run={run}", f"weights={weights}").mistake()
    assert not trace.exists()


def test_weights_that_do_not_fit(run: Path, tmp_path: Path) -> None:
    state = load_file(run / "model.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({key: value for key, value in state.items() if "classifier" not in key}, other)
    message = call("eval", f"run={run}", f"weights={other}").mistake()
    assert "2 missing: classifier." in message
    assert "no such file" in call("eval", f"run={run}", "weights=/none.pt").mistake()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda run: (run / "config.yaml").unlink(), "holds no config.yaml"),
    "other config": (lambda run: (run / "config.yaml").write_text("a: 1"), "is no configuration of if-nas-train"),
    "no classes": (lambda run: (run / "classes.json").unlink(), "classes.json: cannot be read"),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "the run is not finished"),
    "torn weights": (lambda run: (run / "model.safetensors").write_bytes(b"x"), "cannot be read as a checkpoint"),
    "no network": (lambda run: (run / "network.json").unlink(), "network.json: cannot be read"),
    "torn network": (lambda run: (run / "network.json").write_text("{"), "network.json: cannot be read"),
    "no width": (lambda run: (run / "network.json").write_text("[]"), "network.json: names no width"),
    "no genotype": (lambda run: (run / "network.json").write_text('{"width": 4}'), "is no genotype"),
    "other classes": (lambda run: (run / "classes.json").write_text('["a"]'), "classes are not the model's"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_evaluating_a_damaged_run(run: Path, tmp_path: Path, name: str) -> None:
    damage, words = DAMAGES[name]
    copy = copy_of(run, tmp_path / "copy")
    damage(copy)
    if name == "other classes":
        state = load_file(copy / "model.safetensors")
        state["classifier.weight"], state["classifier.bias"] = (
            state["classifier.weight"][:1],
            state["classifier.bias"][:1],
        )
        save_file(state, copy / "model.safetensors")
    assert words in call("eval", f"run={copy}").mistake()


def test_mistakes_in_eval(run: Path, tmp_path: Path) -> None:
    assert "nearest key is 'data.root'" in call("eval", f"run={run}", "data.rot=x").mistake()
    assert "has no such setting" in call("eval", f"run={run}", "data.root=x").mistake()
    assert "data.eval_batch_size: 0" in call("eval", f"run={run}", "data.eval_batch_size=0").mistake()
    assert "holds no config.yaml" in call("eval", f"run={tmp_path}").mistake()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("run=null", "run: None is no text"),
        ("run=3", "run: 3 is no text"),
        ("weights=3", "weights: 3 is no text"),
        ("out=3", "out: 3 is no text"),
        ("out=''", "out: '' is no text"),
        ("out=FOLDER", "is a folder. give the name of a file"),
        ("precision=null", "precision: None is no text"),
    ],
)
def test_types_of_what_eval_is_told(run: Path, tmp_path: Path, argument: str, words: str) -> None:
    assert words in call("eval", f"run={run}", argument.replace("FOLDER", str(tmp_path))).mistake()


def test_a_search_is_not_overwritten(tmp_path: Path) -> None:
    content = "space: {name: lchain}\nmodel: {width: 4}\n"
    (tmp_path / "config.yaml").write_text(content)
    message = call("train", *GENERATED, chain(tmp_path), f"output_dir={tmp_path}", "resume=never").mistake()
    assert f"{tmp_path}: holds a search, which a training would overwrite" in message
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "chain.json"}
    assert (tmp_path / "config.yaml").read_text() == content


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    message = call(
        "train", *GENERATED, chain(tmp_path), f"output_dir={tmp_path}/run", "data.std=[1e-6,1,1]", "optim.lr=1e30"
    )
    assert "not finite" in message.mistake()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_eval_to_a_full_disk(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vireo.engine.folder.tempfile.TemporaryFile", full)
    message = call("eval", f"run={run}", f"out={tmp_path}/eval.json").mistake()
    assert "choose another folder with out=" in message
