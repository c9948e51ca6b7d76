"""``g2sd-eval`` and ``load_run``: numbers of every kind of run, a released classifier without a run, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from g2sd_detect_runs import DETECT
from g2sd_finetune_runs import STILL, call, done, evaluate, finetune, make_chain, without_reports
from g2sd_segment_runs import SEGMENT
from safetensors.torch import save_file

from g2sd.classifier import DistilledVisionTransformer
from g2sd.evaluation import token_features
from g2sd.load import load_run
from g2sd.official import to_official
from g2sd.sizes import encoder_options
from vireo.engine.logs import flatten
from vireo.errors import InputError
from vireo.testing.runs import copy_of, read, weights, write_folders

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    without_reports(monkeypatch)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a run of each kind for images as a whole."""
    return make_chain(tmp_path_factory)


@pytest.mark.parametrize("name", ["classifier", "teacher"])
def test_a_run_repeats_the_numbers_of_its_training(runs: dict[str, Path], name: str) -> None:
    outcome = done(call("eval", f"run={runs[name]}"))
    written, trained = read(runs[name] / "eval.json"), read(runs[name] / "metrics.json")["metrics"]
    assert (written["kind"], written["protocol"]) == ("classifier", "classifier")
    assert flatten(written["metrics"]) == pytest.approx(flatten(trained))
    assert f"{written['metrics']['top1_accuracy']:.2f}" in outcome.out


@pytest.mark.parametrize(
    ("script", "kind", "name"), [("segment", "segmentation", "mIoU"), ("detect", "detection", "box_AP")]
)
def test_networks_of_other_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, kind: str, name: str
) -> None:
    """They repeat the numbers of their training as well; what judges images as a whole refuses them."""
    monkeypatch.setattr(f"g2sd.{kind}.write_run_report", lambda *_, **__: None)
    settings = {"segment": SEGMENT, "detect": [*DETECT, "gallery_images=0"]}[script]
    done(call(script, *settings, "epochs=1", "eval_every=1", f"output_dir={tmp_path}"))
    outcome = done(call("eval", f"run={tmp_path}"))
    written, trained = read(tmp_path / "eval.json"), read(tmp_path / "metrics.json")["metrics"]
    assert written["kind"] == kind
    assert flatten(written["metrics"]) == pytest.approx(flatten(trained), nan_ok=True)
    assert f"{written['metrics'][name]:.4f}" in outcome.out
    assert "has no such setting" in call("eval", f"run={tmp_path}", "data.train_per_class=3").mistake()
    with pytest.raises(InputError, match=f"is a run of g2sd-{script}"):
        load_run(tmp_path)


def test_frozen_features(runs: dict[str, Path]) -> None:
    both = evaluate(runs["distill"])
    assert both.keys() == {"knn", "linear"}
    for found in both.values():
        assert found["top1_accuracy"] == pytest.approx(100 - found["top1_error"])
    assert evaluate(runs["distill"], "protocol=knn") == {"knn": both["knn"]}
    names = ("cls", "mean", "mean_max")
    assert len({json.dumps(evaluate(runs["distill"], "protocol=knn", "k=3", f"features={of}")) for of in names}) > 1
    assert evaluate(runs["pretrain"], "protocol=knn", "data.train_per_class=5").keys() == {"knn"}
    assert evaluate(runs["classifier"], "protocol=knn").keys() == {"knn"}


def test_features_are_those_of_the_normalised_tokens(runs: dict[str, Path]) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoder = load_run(runs["distill"]).network
    with torch.no_grad():
        tokens = encoder.forward_visible(images)
        torch.testing.assert_close(token_features(encoder, images, "cls"), tokens[:, 0])
        torch.testing.assert_close(token_features(encoder, images), tokens[:, 1:].mean(1))
        torch.testing.assert_close(token_features(encoder, images, "mean_max")[:, 24:], tokens[:, 1:].amax(1))
        student: Any = load_run(runs["classifier"]).network  # whose last token is none of the patches'
        patches = student.forward_tokens(images)[:, 1:-1]
        torch.testing.assert_close(token_features(student, images), patches.mean(1))


def test_untrained_is_the_start_of_the_run(runs: dict[str, Path], tmp_path: Path) -> None:
    """A run whose steps are too small to change anything ends where ``untrained=true`` begins."""
    finetune(tmp_path, *STILL, f"teacher.weights={runs['teacher']}")
    fresh = load_run(tmp_path, untrained=True).network.state_dict()
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, fresh[name], rtol=0, atol=1e-20, msg=name)
    trained = evaluate(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    outcome = done(call("eval", f"run={tmp_path}", "untrained=true"))
    assert "(untrained)" in outcome.out
    assert read(tmp_path / "eval_untrained.json")["metrics"] == trained
    encoders = [load_run(runs["distill"], untrained=untrained).network.state_dict() for untrained in (True, False)]
    assert not torch.equal(*(state["blocks.0.attn.qkv.weight"] for state in encoders))


@pytest.mark.parametrize("name", ["pretrain", "distill", "teacher", "classifier"])
def test_weights_in_the_authors_layout_and_of_a_checkpoint(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    protocol = "protocol=knn" if name in ("pretrain", "distill") else "protocol=auto"
    expected = evaluate(runs[name], protocol)
    torch.save({"model": to_official(load_run(runs[name]).network)}, tmp_path / "theirs.pth")
    assert evaluate(runs[name], protocol, f"weights={tmp_path}/theirs.pth") == expected
    newest = sorted((runs[name] / "checkpoints").glob("step_*.pt"))[-1]
    if name != "classifier":  # whose final weights are averages
        assert evaluate(runs[name], protocol, f"weights={newest}") == expected


def test_a_released_classifier_without_a_run(tmp_path: Path) -> None:
    """A published setting, whose file tells that it has a distillation token."""
    root = write_folders(tmp_path / "data", {"train": 1, "val": 2}, size=64)
    network = DistilledVisionTransformer(**encoder_options("vit_tiny"), num_classes=3)
    save_file(network.state_dict(), tmp_path / "released.safetensors")
    arguments = ["run=null", "setting=sd_tiny", f"out={tmp_path}/eval.json", f"data.root={root}"]
    done(call("eval", *arguments, f"weights={tmp_path}/released.safetensors", "data.workers=0"))
    assert read(tmp_path / "eval.json")["run"] == "sd_tiny"
    assert read(tmp_path / "eval.json")["metrics"].keys() == {"top1_error", "top1_accuracy"}
    assert "give the file of a classifier trained as sd_tiny" in call("eval", *arguments).mistake()
    message = call("eval", "run=null", "setting=sd_nano", "weights=x.pt").mistake()
    assert "setting: no such experiment of g2sd-finetune" in message


def test_load_run(runs: dict[str, Path]) -> None:
    loaded = {name: load_run(folder) for name, folder in runs.items()}
    assert [loaded[name].kind for name in runs] == ["pretraining", "classifier", "distillation", "classifier"]
    assert [len(loaded[name].classes) for name in runs] == [0, 6, 0, 6]
    assert not any(of.network.training for of in loaded.values())
    assert isinstance(loaded["classifier"].network, DistilledVisionTransformer)
    assert loaded["teacher"].network.global_pool == "avg"


Damage = Callable[[Path], object]


def rewrite(name: str, change: Callable[[str], str]) -> Damage:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


RUN_FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "no config": (lambda f: (f / "config.yaml").unlink(), ["holds no config.yaml", "g2sd-finetune"]),
    "config of something else": (rewrite("config.yaml", lambda _: "a: 1"), ["it has no model, data, optim, seed"]),
    "no classes": (lambda f: (f / "classes.json").unlink(), ["classes.json: cannot be read", "restore the file"]),
    "fewer classes": (rewrite("classes.json", lambda text: json.dumps(json.loads(text)[:5])), ["misshaped", "head"]),
    "renamed class": (
        rewrite("classes.json", lambda text: text.replace("striped disc", "ball")),
        ["its classes are not the model's (not among the model's: striped disc; absent: ball)"],
    ),
    "not finished": (
        lambda f: (f / "model.safetensors").unlink(),
        ["holds no model.safetensors: the run is not finished", "or take a checkpoint with weights="],
    ),
    "cut-off weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
        ["model.safetensors: cannot be read as a checkpoint"],
    ),
}


@pytest.mark.parametrize("name", RUN_FAULTS)
def test_a_damaged_run(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    damage, expected = RUN_FAULTS[name]
    folder = copy_of(runs["classifier"], tmp_path / "run")
    damage(folder)
    message = call("eval", f"run={folder}").mistake()
    for words in expected:
        assert words in message


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("classifier", ["run=/nowhere"], ["/nowhere: holds no config.yaml"]),
        ("classifier", ["run=null"], ["run, setting: a run or a setting is judged"]),
        ("classifier", ["setting=sd_tiny"], ["run, setting: a run or a setting is judged"]),
        ("classifier", ["weights=/nowhere.pt"], ["/nowhere.pt: no such file"]),
        ("classifier", ["out=/proc/nowhere/eval.json"], ["/proc/nowhere: the output folder cannot be written"]),
        ("classifier", ["data.root=x"], ["data.root: the run's data (data=generated) has no such setting"]),
        ("classifier", ["untrained=true", "weights=x.pt"], ["weights=x.pt: fresh weights, and those of a file"]),
        ("distill", ["protocol=classifier"], ["a pre-training run has no classifier", "g2sd-finetune"]),
        ("pretrain", ["protocol=svm"], ["protocol: unknown protocol 'svm'"]),
        ("distill", ["features=max"], ["features: unknown features 'max'", "use one of cls, mean, mean_max"]),
        ("distill", ["k=65"], ["k: 65 is not between 1 and the 64"]),
    ],
)
def test_mistakes(runs: dict[str, Path], tmp_path: Path, name: str, arguments: list[str], words: list[str]) -> None:
    given = {text.partition("=")[0] for text in arguments}
    defaults = [f"run={runs[name]}", f"out={tmp_path}/eval.json"]
    outcome = call("eval", *arguments, *(text for text in defaults if text.partition("=")[0] not in given))
    message = outcome.mistake()
    for expected in words:
        assert expected in message
