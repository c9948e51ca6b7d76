"""What is wrong with the settings of fine-tuning is said in one message that names it, before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from g2sd_finetune_runs import DATA, FINETUNE, FOLDER, IMAGENET, call, finetune, make_chain, without_reports

from vireo.testing.runs import write_folders

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    without_reports(monkeypatch)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_chain(tmp_path_factory)


def message_of(runs: dict[str, Path], tmp_path: Path, *arguments: str) -> str:
    """What fine-tuning says of a mistake; names of runs in capitals stand for their folders."""
    for name, folder in runs.items():
        arguments = tuple(text.replace(name.upper(), str(folder)) for text in arguments)
    data = [] if "data=folder" in arguments else DATA
    outcome = call("finetune", *data, *FINETUNE, f"output_dir={tmp_path}/run", *arguments)
    assert "step 1" not in outcome.err  # it is known before training
    return outcome.mistake()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.name=vit_giant"], ["model.name: unknown encoder 'vit_giant'"]),
        (["+model.depths=[3]"], ["'depths'", "see the arguments of Classifier"]),
        (["model.img_size=36"], ["36x36 is not divided by patches of 8x8"]),
        (["model.num_heads=5"], ["24 channels are not divided by 5 heads"]),
        (["readout=max"], ["unknown readout 'max'", "use one of cls, mean"]),
        (["head_std=-1"], ["head_std: a deviation of -1"]),
        (["optim.lr=0"], ["optim.lr: a rate of 0 trains nothing"]),
        (["optim.layer_decay=2"], ["decay", "(0, 1]"]),
        (["optim.lrr=1"], ["nearest key is 'optim.lr'"]),
        (["mixing.label_smoothing=2"], ["label_smoothing 2 is not between 0 and 1"]),
        (["augmentation.erasing=2"], ["p 2 is no probability"]),
        (["data.batch_size=65"], ["data.batch_size: 64 images do not fill a batch of 65"]),
        (["init=/nowhere.pth"], ["/nowhere.pth: no such file"]),
        (["model.embed_dim=48", "init=DISTILL"], ["the run's model has embed_dim 24; this one has embed_dim 48"]),
        (["model.patch_size=16", "init=DISTILL"], ["has patch_size 8; this one has patch_size 16"]),
        (["model.depth=3", "init=DISTILL/model.safetensors"], ["does not fit the encoder", "depth 2"]),
        (["data=folder"], ["data.root: has no value", "give the folder of the data with data.root=DIR"]),
        (["distillation.kind=warm"], ["distillation.kind: unknown kind 'warm'", "hard, soft, nkd"]),
        (["teacher.cache=labels"], ["teacher.cache: a cache without a teacher"]),
        (["teacher.weights=/nowhere.pth"], ["/nowhere.pth: no such file"]),
        (["teacher.weights=TEACHER", "teacher.precision=16"], ["teacher.precision: unknown precision"]),
        (["teacher.weights=TEACHER", "readout=mean"], ["readout mean leaves no place for a distillation token"]),
        (["teacher.weights=TEACHER", "distillation.weight=1.5"], ["distillation.weight: a weight of 1.5"]),
        (["teacher.weights=TEACHER", "distillation.temperature=0"], ["distillation.temperature: a temperature of 0"]),
        (["teacher.weights=TEACHER", "distillation.kind=nkd", "distillation.alpha=-1"], ["distillation.alpha"]),
        (
            ["teacher.weights=TEACHER", "distillation.kind=soft", "teacher.cache=CLASSIFIER/labels"],
            ["teacher.cache: only decisions are kept", "use distillation.kind=hard"],
        ),
        (["teacher.weights=PRETRAIN"], ["is a run that classifies nothing", "run of g2sd-finetune"]),
        (["teacher.weights=PRETRAIN/model.safetensors"], ["holds no classifier, but: masked autoencoder"]),
        (["teacher.weights=TEACHER", "data.num_classes=4"], ["its classes are not the model's", "absent"]),
        (["teacher.weights=TEACHER", "model.img_size=48"], ["model.img_size=32", "it has model.img_size=48"]),
        (["teacher.weights=TEACHER", "+data.normalize=half"], ["the teacher was trained with data.normalize=imagenet"]),
        (["teacher.weights=TEACHER/model.safetensors"], ["no file tells the number of heads"]),
        (
            ["teacher.weights=TEACHER/model.safetensors", "data.num_classes=4"],
            ["tells 6 classes apart, the data have 4"],
        ),
    ],
)
def test_mistakes(runs: dict[str, Path], tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    message = message_of(runs, tmp_path, *arguments)
    for expected in words:
        assert expected in message


def test_a_truncated_teacher(runs: dict[str, Path], tmp_path: Path) -> None:
    whole = (runs["teacher"] / "model.safetensors").read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "torn.safetensors" in message_of(runs, tmp_path, f"teacher.weights={tmp_path}/torn.safetensors")


def test_a_run_that_is_not_finished(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.yaml").write_text((runs["distill"] / "config.yaml").read_text())
    message = message_of(runs, tmp_path, f"init={tmp_path}/half")
    assert f"{tmp_path}/half: holds no model.safetensors: no run, or one that is not finished" in message


def test_a_checkpoint_that_would_execute_code(runs: dict[str, Path], tmp_path: Path) -> None:
    torch.save({"model": {"head.weight": torch.zeros(2)}, "args": Path("anything")}, tmp_path / "bad.pth")
    for key in ("init", "teacher.weights"):
        assert "bad.pth" in message_of(runs, tmp_path, f"{key}={tmp_path}/bad.pth")


def test_splits_with_other_classes(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3})
    (root / "val" / "cat").rename(root / "val" / "dog")
    message = call("finetune", *FOLDER, *FINETUNE, f"data.root={root}", f"output_dir={tmp_path}/run").mistake()
    assert "different classes (2 in one only: cat, dog)" in message


def test_unreadable_images_are_listed(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3})
    (root / "train" / "ant" / "000.jpg").write_bytes(b"")
    arguments = [*IMAGENET, *FINETUNE, f"data.root={root}", f"output_dir={tmp_path}/run"]
    assert "train/ant/000.jpg" in call("finetune", *arguments).mistake()
    finetune(tmp_path / "run", f"data.root={root}", "data.on_error=skip", "epochs=1", data=IMAGENET)
    assert "train/ant/000.jpg" in (tmp_path / "run" / "skipped.txt").read_text()
