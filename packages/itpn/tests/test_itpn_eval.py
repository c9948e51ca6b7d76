"""``itpn-eval`` and ``load_run``: numbers of every kind of run, a released classifier without a run, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from itpn_command_line import CLASSES, IMAGENET, STILL, call, evaluate, fast, finetune
from itpn_pretrain_runs import PIXEL, clip, pretrain
from safetensors.torch import save_file

from itpn.evaluation import token_features
from itpn.load import LoadedRun, load_run
from itpn.official import to_official
from itpn.sizes import itpn_backbone
from vireo.engine.logs import flatten
from vireo.testing.runs import copy_of, read, weights, write_folders
from vireo.testing.series import torchrun

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

SEGMENT = ["epochs=1", "eval_every=1", "gallery_images=0", "data.train_images=16", "data.val_images=6"]
SEGMENT += ["data.batch_size=8", "neck.dim=16", "segmenter.channels=16", "segmenter.auxiliary_channels=8"]
DETECT = ["epochs=1", "eval_every=1", "gallery_images=0", "data.train_images=8", "data.val_images=6", "neck.dim=16"]
DETECT += ["detector.hidden=16", "data.batch_size=4"]
TINY = ["model.embed_dim=32", "model.depths=[1,1,2]", "model.num_heads=2"]
WITHOUT = [
    "itpn.report.write_run_report",
    "itpn.pretraining_report.write_run_report",
    "itpn.segmentation.write_run_report",
    "itpn.detection.write_run_report",
]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs."""
    for name in WITHOUT:
        monkeypatch.setattr(name, lambda *_, **__: None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name in WITHOUT:
            patch.setattr(name, lambda *_, **__: None)
        pretrain(root / "pretraining", *PIXEL, "epochs=1", "data.train_images=96", "data.num_classes=6")
        pretrain(root / "features", *clip(root), "epochs=1", "data.num_classes=6")
        finetune(root / "classifier", "run.ema_decay=0.5")
        fast(root / "fast", "epochs=1")
        for script, settings in (("segment", SEGMENT), ("detect", DETECT)):
            outcome = call(script, *TINY, *settings, f"output_dir={root / script}")
            assert outcome.status == 0, outcome.err
    return {folder.name: folder for folder in root.iterdir() if folder.is_dir()}


@pytest.mark.parametrize("kind", ["classifier", "fast", "segment", "detect"])
def test_a_run_repeats_the_numbers_of_its_training(runs: dict[str, Path], kind: str) -> None:
    outcome = call("eval", f"run={runs[kind]}")
    assert outcome.status == 0, outcome.err
    written, trained = read(runs[kind] / "eval.json"), read(runs[kind] / "metrics.json")["metrics"]
    kinds = {"segment": "segmentation", "detect": "detection"}
    assert written["kind"] == kinds.get(kind, "classifier")
    assert flatten(written["metrics"]) == pytest.approx(flatten(trained), nan_ok=True)
    name, digits = {"segment": ("mIoU", 4), "detect": ("box_AP", 4)}.get(kind, ("top1_accuracy", 2))
    assert f"{written['metrics'][name]:.{digits}f}" in outcome.out


def test_frozen_features(runs: dict[str, Path]) -> None:
    both = evaluate(runs["pretraining"])
    assert both.keys() == {"knn", "linear"}
    for found in both.values():
        assert found["top1_accuracy"] == pytest.approx(100 - found["top1_error"])
    assert evaluate(runs["pretraining"], "protocol=knn") == {"knn": both["knn"]}
    assert evaluate(runs["pretraining"], "features=mean") != both
    assert evaluate(runs["fast"], "protocol=knn").keys() == {"knn"}
    assert evaluate(runs["features"], "protocol=knn", "data.train_per_class=5").keys() == {"knn"}


def test_features_are_those_of_the_tokens_of_stage_3() -> None:
    backbone: Any = itpn_backbone(
        "fast_itpn_tiny", img_size=32, patch_size=8, embed_dim=16, depths=[1, 1, 1], num_heads=2
    )
    loaded = LoadedRun("classifier", backbone.eval(), None, ())  # type: ignore[arg-type]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = backbone.forward_intermediates(images, indices=[2], intermediates_only=True)[0].flatten(2)
        torch.testing.assert_close(token_features(loaded, images, "mean"), tokens.mean(2))
        torch.testing.assert_close(token_features(loaded, images)[:, 16:], tokens.amax(2))


def test_untrained_is_the_start_of_the_run(tmp_path: Path) -> None:
    """A run whose steps are too small to change anything ends where ``untrained=true`` begins."""
    finetune(tmp_path, *STILL)
    fresh = load_run(tmp_path, untrained=True).network.state_dict()
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, fresh[name], rtol=0, atol=1e-20, msg=name)
    trained = evaluate(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    outcome = call("eval", f"run={tmp_path}", "untrained=true")
    assert outcome.status == 0, outcome.err
    assert "(untrained)" in outcome.out
    assert read(tmp_path / "eval_untrained.json")["metrics"] == trained


@pytest.mark.parametrize("kind", ["pretraining", "classifier", "fast"])
def test_weights_in_the_authors_layout_and_of_a_checkpoint(runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    state = to_official(load_run(runs[kind]).network)
    torch.save({"module" if kind == "fast" else "model": state}, tmp_path / "theirs.pth")  # DeepSpeed's, or their own
    newest = sorted((runs[kind] / "checkpoints").glob("step_*.pt"))[-1]
    expected = evaluate(runs[kind], "k=5")
    assert evaluate(runs[kind], "k=5", f"weights={tmp_path}/theirs.pth") == expected
    if kind != "classifier":  # whose final weights are averages
        assert evaluate(runs[kind], "k=5", f"weights={newest}") == expected


def test_data_elsewhere(tmp_path: Path) -> None:
    """Pre-trained on a flat folder, judged on labelled ones of files that workers crop, one of them broken."""
    flat = write_folders(tmp_path / "flat", {"images": 18}, classes=("any",), vary=True) / "images"
    data = [*IMAGENET, f"data.root={flat}", "data.train_split=", "augmentation.interpolation=bicubic"]
    pretrain(tmp_path / "run", *PIXEL, "eval_every=0", data=data)
    root = write_folders(tmp_path / "labelled", {"train": 6, "test": 3}, vary=True)
    (root / "test" / "ant" / "000.jpg").write_bytes(b"")
    where = [f"data.root={root}", "data.train_split=train", "data.val_split=test", "k=5"]
    assert "test/ant/000.jpg" in call("eval", f"run={tmp_path}/run", *where).mistake()
    outcome = call("eval", f"run={tmp_path}/run", *where, "data.on_error=skip")
    assert outcome.status == 0, outcome.err
    assert "test/ant/000.jpg" in outcome.err


def test_a_released_classifier_without_a_run(tmp_path: Path) -> None:
    """A published setting, made small by a stand-in for its size."""
    root = write_folders(tmp_path / "data", {"train": 1, "val": 2})
    small: Any = {"embed_dim": 64, "depths": (1, 1, 1), "num_heads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("itpn.sizes.SIZES", {"fast_itpn_tiny": small})
        network = itpn_backbone("fast_itpn_tiny", num_classes=len(CLASSES))
        save_file(network.state_dict(), tmp_path / "released.safetensors")
        arguments = ["run=null", "setting=fast_tiny_224", f"out={tmp_path}/eval.json", f"data.root={root}"]
        outcome = call("eval", *arguments, f"weights={tmp_path}/released.safetensors", "data.workers=0")
        assert outcome.status == 0, outcome.err
        assert read(tmp_path / "eval.json")["run"] == "fast_tiny_224"
        assert read(tmp_path / "eval.json")["metrics"].keys() == {"top1_error", "top1_accuracy"}
        assert "give the file of a classifier trained as fast_tiny_224" in call("eval", *arguments).mistake()
    message = call("eval", "run=null", "setting=fast_nano", "weights=x.pt").mistake()
    assert "setting: no such experiment of itpn-finetune" in message


def test_load_run(runs: dict[str, Path]) -> None:
    before, classifier = load_run(runs["pretraining"]), load_run(runs["classifier"])
    assert (before.kind, classifier.kind) == ("pretraining", "classifier")
    assert (before.classes, len(classifier.classes)) == ((), 6)
    assert not before.network.training
    assert before.backbone is before.network.backbone
    assert classifier.backbone is classifier.network


Damage = Callable[[Path], object]


def rewrite(name: str, change: Callable[[str], str]) -> Damage:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


RUN_FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "no config": (lambda f: (f / "config.yaml").unlink(), ["holds no config.yaml", "itpn-finetune"]),
    "config is no YAML": (rewrite("config.yaml", lambda _: "model: [1"), ["config.yaml: cannot be read"]),
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
    ("kind", "arguments", "words"),
    [
        ("classifier", ["run=/nowhere"], ["/nowhere: holds no config.yaml"]),
        ("classifier", ["run=null"], ["run, setting: a run or a setting is judged"]),
        ("classifier", ["setting=fast_tiny_224"], ["run, setting: a run or a setting is judged"]),
        ("classifier", ["weights=/nowhere.pt"], ["/nowhere.pt: no such file"]),
        ("classifier", ["out=/proc/nowhere/eval.json"], ["/proc/nowhere: the output folder cannot be written"]),
        ("classifier", ["data.root=x"], ["data.root: the run's data (data=generated) has no such setting"]),
        ("classifier", ["untrained=true", "weights=x.pt"], ["weights=x.pt: fresh weights, and those of a file"]),
        ("pretraining", ["protocol=classifier"], ["a pre-training run has no classifier", "itpn-finetune"]),
        ("pretraining", ["protocol=svm"], ["protocol: unknown protocol 'svm'"]),
        ("pretraining", ["features=max"], ["features: unknown pooling 'max'"]),
        ("pretraining", ["k=97"], ["k: 97 is not between 1 and the 96"]),
        ("segment", ["data.train_per_class=3"], ["has no such setting"]),
    ],
)
def test_mistakes(runs: dict[str, Path], tmp_path: Path, kind: str, arguments: list[str], words: list[str]) -> None:
    given = {text.partition("=")[0] for text in arguments}
    defaults = [f"run={runs[kind]}", f"out={tmp_path}/eval.json"]
    outcome = call("eval", *arguments, *(text for text in defaults if text.partition("=")[0] not in given))
    message = outcome.mistake()
    for expected in words:
        assert expected in message


@pytest.mark.slow
def test_two_processes_find_what_one_finds(runs: dict[str, Path], tmp_path: Path) -> None:
    """Each takes its share of the images, in other batches."""
    found, out = evaluate(runs["pretraining"]), tmp_path / "eval.json"
    torchrun("itpn.eval", f"run={runs['pretraining']}", f"out={out}", "data.eval_batch_size=13")
    one, two = ({k: v for k, v in flatten(part).items() if "top" in k} for part in (found, read(out)["metrics"]))
    assert one == pytest.approx(two, abs=1e-9)
