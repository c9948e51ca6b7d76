"""``beyond-masking-eval`` and ``load_run``: numbers of classifiers and of frozen features, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bm_command_line import (
    DATA,
    IMAGENET,
    SIZE,
    call,
    copy_of,
    evaluate,
    finetune,
    pretrain,
    read,
    weights,
    write_folders,
)
from omegaconf import OmegaConf

from beyond_masking import to_official
from beyond_masking.features import pooled_features
from beyond_masking.load import load_run
from vireo.backbones import MaskedViT
from vireo.data import Normalize, build_dataset, labelled_loader
from vireo.engine.logs import flatten
from vireo.errors import InputError
from vireo.testing.series import torchrun

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

EASY = [text for text in DATA if "val_images" not in text] + ["data.class_colours=true", "data.val_images=90"]
STILL = ["optim.lr=1e-30", "optim.min_lr=0", "optim.weight_decay=0", "epochs=1"]  # too small a step for float32


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs."""
    monkeypatch.setattr("beyond_masking.report.write_run_report", lambda *_: None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beyond_masking.report.write_run_report", lambda *_: None)
        pretrain(folder / "pretraining", "data.train_images=240", "epochs=1", data=EASY)
        finetune(folder / "classifier")
    return {kind: folder / kind for kind in ("pretraining", "classifier")}


def test_a_classifier_repeats_the_numbers_of_training(runs: dict[str, Path]) -> None:
    outcome = call("eval", f"run={runs['classifier']}")
    assert outcome.status == 0, outcome.err
    written = read(runs["classifier"] / "eval.json")
    assert written["protocol"] == "classifier"
    assert written["metrics"] == read(runs["classifier"] / "metrics.json")["metrics"]
    assert f"{written['metrics']['top1_accuracy']:.2f}" in outcome.out


def test_frozen_features_of_an_easy_set(tmp_path: Path) -> None:
    """Three hues that say the class: 66.7 percent would be chance."""
    pretrain(tmp_path, "data.num_classes=3", "data.noise=0", "data.train_images=240", "epochs=1", data=EASY)
    metrics = evaluate(tmp_path)
    assert metrics.keys() == {"knn", "linear"}
    for found in metrics.values():
        assert found["top1_error"] < 45
        assert found["top1_accuracy"] == pytest.approx(100 - found["top1_error"])
        assert "top5_error" not in found
    assert metrics["linear"]["l2"] in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def test_each_protocol_and_pooling(runs: dict[str, Path]) -> None:
    both = evaluate(runs["pretraining"])
    assert evaluate(runs["pretraining"], "protocol=knn") == {"knn": both["knn"]}
    assert evaluate(runs["pretraining"], "protocol=linear") == {"linear": both["linear"]}
    assert evaluate(runs["pretraining"], "features=mean") != both
    assert evaluate(runs["pretraining"], "protocol=knn", "k=240") != {"knn": both["knn"]}
    assert evaluate(runs["classifier"], "protocol=features").keys() == {"knn", "linear"}
    assert evaluate(runs["pretraining"], "data.train_per_class=5", "protocol=knn", "k=20").keys() == {"knn"}


def test_untrained_is_the_start_of_the_run(tmp_path: Path) -> None:
    """A run whose steps are too small to change anything ends where ``untrained=true`` begins."""
    pretrain(tmp_path, *STILL)
    fresh = load_run(tmp_path, untrained=True).network.state_dict()
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, fresh[name], rtol=0, atol=1e-20, msg=name)
    found, again = evaluate(tmp_path, "untrained=true"), evaluate(tmp_path)
    assert found["knn"] == again["knn"]


def test_untrained_needs_no_weights_and_keeps_the_numbers_of_the_run(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(runs["pretraining"], tmp_path / "run")
    (folder / "model.safetensors").unlink()
    (folder / "eval.json").write_text("kept")
    outcome = call("eval", f"run={folder}", "untrained=true", "protocol=knn")
    assert outcome.status == 0, outcome.err
    assert "(untrained)" in outcome.out
    assert read(folder / "eval_untrained.json")["untrained"] is True
    assert (folder / "eval.json").read_text() == "kept"


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_weights_in_the_authors_layout(runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    torch.save({"model": to_official(load_run(runs[kind]).network)}, tmp_path / "theirs.pth")
    assert evaluate(runs[kind], f"weights={tmp_path}/theirs.pth") == evaluate(runs[kind])


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_a_checkpoint_of_training(runs: dict[str, Path], kind: str) -> None:
    newest = sorted((runs[kind] / "checkpoints").glob("step_*.pt"))[-1]
    assert evaluate(runs[kind], f"weights={newest}") == evaluate(runs[kind])


def test_data_elsewhere(tmp_path: Path) -> None:
    """Pre-trained on a flat folder, judged on labelled ones of files that workers crop, one of them broken."""
    flat = write_folders(tmp_path / "flat", {"images": 18}, classes=("any",), vary=True) / "images"
    pretrain(tmp_path / "run", f"data.root={flat}", "data.train_split=", "eval_every=0", data=IMAGENET)
    root = write_folders(tmp_path / "labelled", {"train": 6, "test": 3}, vary=True)
    (root / "test" / "ant" / "000.jpg").write_bytes(b"")
    where = [f"data.root={root}", "data.train_split=train", "data.val_split=test", "k=5"]
    assert "test/ant/000.jpg" in call("eval", f"run={tmp_path}/run", *where).mistake()
    outcome = call("eval", f"run={tmp_path}/run", *where, "data.on_error=skip")
    assert outcome.status == 0, outcome.err
    assert "skipped: " in outcome.err
    assert "test/ant/000.jpg" in outcome.err
    assert read(tmp_path / "run" / "eval.json")["metrics"]["knn"]["top1_error"] < 60  # by colour; chance is 66.7


@pytest.mark.parametrize("readout", ["none", "mean", "cls"])
def test_pooled_features_are_those_of_the_normalised_patch_tokens(readout: Any) -> None:
    torch.manual_seed(0)
    encoder = MaskedViT(16, 8, embed_dim=12, depth=1, num_heads=2, readout=readout, num_classes=3).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        mean, both = pooled_features(encoder, images, "mean"), pooled_features(encoder, images)
        tokens = encoder.blocks(encoder.embed_visible(images))
        tokens = F.layer_norm(tokens, (12,), eps=1e-6)[:, -4:]  # fresh norms: gain 1, offset 0
    torch.testing.assert_close(mean, tokens.mean(1))
    torch.testing.assert_close(both, torch.cat((tokens.mean(1), tokens.max(1).values), 1))


def test_an_encoder_of_gray_images_gets_the_mean_of_the_channels(tmp_path: Path) -> None:
    pretrain(tmp_path, "degradation.name=decolorized", "epochs=1")
    encoder = load_run(tmp_path).encoder
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = pooled_features(encoder, images)
        torch.testing.assert_close(given, pooled_features(encoder, images.sum(1, keepdim=True) / 3))
    assert evaluate(tmp_path, "protocol=knn").keys() == {"knn"}


def test_whole_images_are_evaluated(tmp_path: Path) -> None:
    """Resident images on the device, others in workers, with bicubic weights and 8 bits."""
    root = write_folders(tmp_path, {"train": 2, "val": 2})
    options: dict[str, Any] = {
        "format": "folder",
        "root": str(root),
        "train_split": "train",
        "val_split": "val",
        "on_error": "raise",
    }
    options |= {"train_per_class": None, "check_images": "none", "eval_batch_size": 4, "workers": 0}
    seen = {}
    for resident in (True, False):
        data = OmegaConf.create({**options, "resident": resident, "image_size": [32, 32]})
        dataset = build_dataset(data, train=False)
        batches = list(labelled_loader(dataset, data, 16))
        assert [len(images) for images, _ in batches] == [4, 2]
        seen[resident] = torch.cat([images for images, _ in batches])
    for resident, mode, tolerance in ((True, "bilinear", 1e-4), (False, "bicubic", 0.02)):  # a grey level is 0.0175
        halved = F.interpolate(dataset.arrays().float(), (16, 16), mode=mode, antialias=True).clamp(0, 255)
        torch.testing.assert_close(seen[resident], Normalize()(halved, {})[0], atol=tolerance, rtol=0)


def test_load_run(runs: dict[str, Path]) -> None:
    before, classifier = load_run(runs["pretraining"], kind="pretraining"), load_run(runs["classifier"])
    assert (before.kind, classifier.kind) == ("pretraining", "classifier")
    assert before.classes == ()
    assert len(classifier.classes) == 6
    assert not before.network.training
    assert not classifier.network.training
    assert before.encoder is before.pretraining.encoder
    assert classifier.encoder is classifier.network
    with pytest.raises(InputError, match=r"is a run of beyond-masking-finetune.*of a run of beyond-masking-pretrain"):
        load_run(runs["classifier"], kind="pretraining")


Damage = Callable[[Path], object]


def rewrite(name: str, change: Callable[[str], str]) -> Damage:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


RUN_FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "no config": (lambda f: (f / "config.yaml").unlink(), ["holds no config.yaml", "beyond-masking-finetune"]),
    "config is no YAML": (rewrite("config.yaml", lambda _: "model: [1"), ["config.yaml: cannot be read"]),
    "config would construct": (
        rewrite("config.yaml", lambda text: text + "x: !!python/object/apply:os.getcwd []\n"),
        ["config.yaml: cannot be read"],
    ),
    "config of something else": (
        rewrite("config.yaml", lambda _: "a: 1"),
        ["is no configuration of beyond-masking-pretrain or beyond-masking-finetune: it has no model, data"],
    ),
    "no classes": (lambda f: (f / "classes.json").unlink(), ["classes.json: cannot be read", "restore the file"]),
    "classes cut off": (rewrite("classes.json", lambda text: text[:20]), ["classes.json: cannot be read"]),
    "classes are numbers": (rewrite("classes.json", lambda _: "[1, 2]"), ["is no list of classes (1 is no name)"]),
    "fewer classes": (rewrite("classes.json", lambda text: json.dumps(json.loads(text)[:5])), ["2 misshaped: head"]),
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
        ("classifier", ["weights=/nowhere.pt"], ["/nowhere.pt: no such file"]),
        ("classifier", ["out=/proc/nowhere/eval.json"], ["/proc/nowhere: the output folder cannot be written"]),
        ("classifier", ["data.root=x"], ["data.root: the run's data (data=generated) has no such setting"]),
        ("classifier", ["untrained=true", "weights=x.pt"], ["weights=x.pt: fresh weights, and those of a file"]),
        ("pretraining", ["protocol=classifier"], ["a pre-training run has no classifier", "beyond-masking-finetune"]),
        ("pretraining", ["protocol=svm"], ["protocol: unknown protocol 'svm'", "auto, classifier, knn, linear"]),
        ("pretraining", ["features=max"], ["features: unknown pooling 'max'", "use one of mean, mean_max"]),
        ("pretraining", ["k=0"], ["k: 0 is not between 1 and the 240 labelled training images"]),
        ("pretraining", ["k=241"], ["k: 241 is not between 1 and the 240"]),
        ("pretraining", ["data.train_per_class=2", "k=20"], ["k: 20 is not between 1 and the 12"]),
        ("pretraining", ["data.train_per_class=1", "protocol=linear"], ["class 0 has 1 samples"]),
        ("pretraining", ["prtocol=knn"], ["nearest key is 'protocol'"]),
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
    for kind, folder in runs.items():
        found = evaluate(folder)
        out = tmp_path / f"{kind}.json"
        torchrun("beyond_masking.eval", f"run={folder}", f"out={out}", "data.eval_batch_size=13")
        one, two = ({k: v for k, v in flatten(part).items() if "top" in k} for part in (found, read(out)["metrics"]))
        assert one == pytest.approx(two, abs=1e-9)
