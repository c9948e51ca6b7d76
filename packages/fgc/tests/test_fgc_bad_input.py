"""Bad input to the console scripts: one message with file, record and remedy, and exit status 2, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fgc_command_line import CIFAR, COUPLED, FOLDER, GENERATED, call, copy_of, losses, train, write_cifar, write_folders
from safetensors.torch import load_file, save_file

from fgc.bank import MemoryBank
from fgc.coupling import FeatureGateCoupling
from vireo.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]
Damage = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and curves take longer than these runs."""
    monkeypatch.setattr("fgc.report.write_run_report", lambda *_: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(folder, "stage=bas", "epochs=1")
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optim.lrr=1"], ["nearest key is 'optim.lr'"]),
        (["coupling.num_neighbours=3"], ["nearest key is 'coupling.num_neighbors'"]),
        (["data=cifar11"], ["nearest is data=cifar10"]),
        (["stage=bsa"], ["stage: unknown stage 'bsa'", "use one of bas, fgc, both"]),
        (["recipe.rho=-1"], ["recipe.rho: -1 is negative", "give 0 or more"]),
        (["controller.target_pruning=1.5"], ["1.5 is no pruning ratio", "between 0 and 1"]),
        (["controller.target_pruning=0.5", "recipe.rho=0"], ["rho 0 is not positive", "recipe.rho"]),
        (["coupling.blocks=[7,9]"], ["coupling.blocks: [7, 9] does not name different blocks of 0 to 8"]),
        (["coupling.blocks=[7,7]"], ["coupling.blocks: [7, 7] does not name different blocks of 0 to 8"]),
        (["coupling.blocks=[-1]"], ["coupling.blocks", "number the gated blocks in network order, from 0"]),
        (["coupling.bank_dtype=float16"], ["coupling.bank_dtype: unknown type 'float16'", "float32 or bfloat16"]),
        (["coupling.temperature=0"], ["temperature 0", "a positive temperature"]),
        (["coupling.momentum=1.5"], ["momentum 1.5", "give a number in [0, 1]"]),
        (["coupling.num_neighbors=-1"], ["-1 neighbours", "give 0 or more neighbours"]),
        (["measured_blocks=[9]"], ["measured_blocks: [9] does not name different blocks of 0 to 8"]),
        (["model.name=gated_resnet21"], ["model.name: unknown network 'gated_resnet21'", "use one of gated_resnet20"]),
        (["model.name=vit_tiny_patch16_224"], ["holds no BasicBlock or Bottleneck", "give a ResNet"]),
        (["model.name=seresnet50"], ["se, which the gated block does not", "take a plain ResNet"]),
        (["model.width=0"], ["width 0 is not positive"]),
        (["optim.schedule=multi"], ["unknown schedule 'multi'", "multistep"]),
        (["data.format=coco"], ["data.format: unknown format 'coco'", "use one of generated, cifar, folder"]),
        (["data.resident=false"], ["data.resident: this data is always kept on the device", "data=imagenet"]),
        (["data.image_size=[8,8]"], ["image_size (8, 8) is too small"]),
        (["data.batch_size=0"], ["batch_size", "use a positive multiple"]),
        (["data.batch_size=1"], ["data.batch_size: 64 images leave a batch of one", "choose another batch size"]),
        (["data.train_images=33"], ["data.batch_size: 33 images leave a batch of one", "data.drop_last=true"]),
        (["init=/nowhere.pth"], ["/nowhere.pth: no such file"]),
        (["stage=fgc"], ["init: stage=fgc starts from trained gates", "do both stages with stage=both"]),
    ],
)
def test_configuration(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    outcome = call("train", *GENERATED, f"output_dir={tmp_path}/run", *arguments)
    message = outcome.mistake()
    for expected in words:
        assert expected in message
    assert "step 1" not in outcome.err  # it is known before training


def test_a_batch_of_one_may_be_dropped(tmp_path: Path) -> None:
    train(tmp_path, "data.train_images=33", "data.drop_last=true", "epochs=1", "stage=bas")
    assert len(losses(tmp_path)) == 2


def test_pretrained_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise ConnectionError("Name or service not known")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    arguments = [*GENERATED, f"output_dir={tmp_path}", "model=resnet18", "model.pretrained=true"]
    message = call("train", *(text for text in arguments if "width" not in text)).mistake()
    assert "model.name=resnet18: pre-trained weights cannot be had (Name or service not known)" in message
    assert "set model.pretrained=false and give weights with init=..." in message


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
    for outcome in (
        call("train", *GENERATED, f"output_dir={tmp_path}/run", f"init={weights}"),
        call("eval", f"run={run}", f"weights={weights}", f"out={tmp_path}/eval.json"),
    ):
        message = outcome.mistake()
        assert f"{weights}: refused" in message
        assert "convert it to .safetensors" in message
    assert not trace.exists()


def test_weights_of_another_depth_or_width(run: Path, tmp_path: Path) -> None:
    arguments = [*GENERATED, f"output_dir={tmp_path}/run", f"init={run}"]
    message = call("train", *arguments, "model=resnet32").mistake()
    assert f"{run}/model.safetensors: the checkpoint does not fit the model; 120 missing: layer1.3.conv1" in message
    message = call("train", *arguments, "model.width=8").mistake()
    assert "misshaped: conv1.weight (file (4, 3, 3, 3), model (8, 3, 3, 3))" in message
    message = call("train", *arguments, "data.num_classes=7").mistake()
    assert "2 misshaped: linear.weight (file (6, 16), model (7, 16)), linear.bias" in message


def test_weights_with_other_keys(run: Path, tmp_path: Path) -> None:
    state = load_file(run / "model.safetensors")
    state["classifier.bias"] = state.pop("linear.bias")
    weights = tmp_path / "other.safetensors"
    save_file(state, weights)
    message = call("eval", f"run={run}", f"weights={weights}", f"out={tmp_path}/eval.json").mistake()
    for words in (str(weights), "1 missing: linear.bias", "1 unexpected: classifier.bias"):
        assert words in message


def test_a_run_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    folder = copy_of(run, tmp_path / "run")
    (folder / "model.safetensors").unlink()
    best = folder / "checkpoints" / "best.pt"
    assert f"weights={best}" in call("eval", f"run={folder}").mistake()
    assert call("eval", f"run={folder}", f"weights={best}").status == 0
    message = call("train", *GENERATED, f"output_dir={tmp_path}/next", f"init={folder}").mistake()
    assert f"{folder}: holds no model.safetensors: no run, or one that is not finished" in message
    assert "give the file of a checkpoint with init=..." in message


def rewrite(name: str, change: Callable[[str], str]) -> Damage:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


RUN_FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "no config": (lambda f: (f / "config.yaml").unlink(), ["holds no config.yaml", "give the folder of a run"]),
    "config is no YAML": (rewrite("config.yaml", lambda _: "model: [1"), ["config.yaml: cannot be read"]),
    "config would construct": (
        rewrite("config.yaml", lambda text: text + "x: !!python/object/apply:os.getcwd []\n"),
        ["config.yaml: cannot be read"],
    ),
    "config of something else": (
        rewrite("config.yaml", lambda _: "a: 1"),
        ["is no configuration of fgc-train: it has no model, data, image_size"],
    ),
    "no classes": (lambda f: (f / "classes.json").unlink(), ["classes.json: cannot be read", "restore the file"]),
    "classes cut off": (rewrite("classes.json", lambda text: text[:20]), ["classes.json: cannot be read"]),
    "classes are numbers": (rewrite("classes.json", lambda _: "[1, 2]"), ["is no list of classes (1 is no name)"]),
    "fewer classes": (rewrite("classes.json", lambda text: json.dumps(json.loads(text)[:5])), ["2 misshaped: linear"]),
    "renamed class": (
        rewrite("classes.json", lambda text: text.replace("striped disc", "ball")),
        ["its classes are not the model's (not among the model's: striped disc; absent: ball)"],
    ),
    "cut-off weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
        ["model.safetensors: cannot be read as a checkpoint", "copy or download it again"],
    ),
}


@pytest.mark.parametrize("name", RUN_FAULTS)
def test_evaluating_a_damaged_run(run: Path, tmp_path: Path, name: str) -> None:
    damage, expected = RUN_FAULTS[name]
    folder = copy_of(run, tmp_path / "run")
    damage(folder)
    message = call("eval", f"run={folder}").mistake()
    for words in expected:
        assert words in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run=/nowhere"], "/nowhere: holds no config.yaml"),
        (["weights=/nowhere.pt"], "/nowhere.pt: no such file"),
        (["out=/proc/nowhere/eval.json"], "/proc/nowhere: the output folder cannot be written"),
        (["measured_blocks=[9]"], "measured_blocks: [9] does not name"),
        (["data.val_split=other"], "data.val_split: the run's data (data=generated) has no such setting"),
        (["latncy=true"], "nearest key is 'latency'"),
    ],
)
def test_mistakes_in_eval(run: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    given = {text.partition("=")[0] for text in arguments}
    defaults = [f"run={run}", f"out={tmp_path}/eval.json"]
    outcome = call("eval", *arguments, *(text for text in defaults if text.partition("=")[0] not in given))
    assert words in outcome.mistake()


def first_image(change: Callable[[Path], object]) -> Damage:
    return lambda root: change(root / "train" / "ant" / "000.jpg")


def shorten(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def truncate(path: Path) -> None:
    shorten(path, path.stat().st_size // 2)


def remove_class(root: Path) -> None:
    copy_of(root / "train" / "ant", root / "spare")
    for path in (root / "val" / "cat").iterdir():
        path.unlink()
    (root / "val" / "cat").rmdir()


FOLDER_FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "truncated": (first_image(truncate), ["train/ant/000.jpg: ", "truncated", "on_error=skip"]),
    "not an image": (first_image(lambda p: p.write_text("<html>")), ["train/ant/000.jpg: not a JPEG", "on_error=skip"]),
    "empty": (first_image(lambda p: p.write_bytes(b"")), ["train/ant/000.jpg: "]),
    "no such split": (
        lambda root: (root / "train").rename(root / "training"),
        ["train: there is no such split", "has the folders: training, val"],
    ),
    "other classes": (remove_class, ["different classes (1 in one only: cat)", "give both splits the same"]),
    "class without images": (
        lambda root: (root / "train" / "dog").mkdir(),
        ["train/dog: class without images", "remove the folder"],
    ),
}


@pytest.mark.parametrize("name", FOLDER_FAULTS)
def test_folder_input(tmp_path: Path, name: str) -> None:
    damage, expected = FOLDER_FAULTS[name]
    root = write_folders(tmp_path / "data", {"train": 4, "val": 2})
    damage(root)
    outcome = call("train", *FOLDER, f"data.root={root}", f"output_dir={tmp_path}/run")
    message = outcome.mistake()
    for words in expected:
        assert words in message
    assert "step 1" not in outcome.err


def damaged_folders(root: Path, vary: bool) -> Path:
    write_folders(root, {"train": 4, "val": 3}, vary=vary)
    truncate(root / "train" / "ant" / "000.jpg")
    truncate(root / "val" / "bee" / "001.jpg")
    return root


def test_skipping_in_a_resident_set(tmp_path: Path) -> None:
    """What cannot be read leaves the set before banks are made for it."""
    root = damaged_folders(tmp_path / "data", vary=False)
    arguments = [*FOLDER, f"data.root={root}", "data.on_error=skip", *COUPLED]
    outcome = call("train", *arguments, f"output_dir={tmp_path}/run")
    assert outcome.status == 0, outcome.err
    for words in ("train/ant/000.jpg", "val/bee/001.jpg"):
        assert sum(line.startswith("skipped: ") and words in line for line in outcome.err.splitlines()) == 1
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step_*.pt"))[-1]
    bank = torch.load(newest, weights_only=True)["model"]["objective.couplings.8.gate_bank.memory"]
    assert len(bank) == 11
    outcome = call("eval", f"run={tmp_path}/run")
    assert "8 images" in outcome.out
    assert outcome.err.count("skipped: ") == 1
    outcome = call("train", *arguments, f"output_dir={tmp_path}/other", "data.batch_size=10")
    assert "11 images leave a batch of one" in outcome.mistake()  # there are 12 files


def test_skipping_with_workers(tmp_path: Path) -> None:
    """Another image takes the place of one that cannot be read, so an index may occur twice in a batch."""
    root = damaged_folders(tmp_path / "data", vary=True)
    small = ["data=imagenet", "model=resnet18", "data.crop_size=32", "data.batch_size=12", "data.workers=1"]
    arguments = [*small, *COUPLED, "epochs=1", "gallery_images=0", f"data.root={root}"]
    message = call("train", *arguments, f"output_dir={tmp_path}/run").mistake()
    assert "train/ant/000.jpg: " in message
    outcome = call("train", *arguments, f"output_dir={tmp_path}/run", "data.on_error=skip")
    assert outcome.status == 0, outcome.err
    listed = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert len(listed) == 2
    assert all(any(words in line for line in listed) for words in ("train/ant/000.jpg", "val/bee/001.jpg"))
    outcome = call("eval", f"run={tmp_path}/run")
    assert outcome.status == 0, outcome.err
    assert "val/bee/001.jpg" in outcome.err


CIFAR_FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "no root": (lambda _: None, ["data.root: has no value", "data.root=DIR"]),
    "batch missing": (lambda f: (f / "data_batch_3.bin").unlink(), ["data_batch_3.bin: file is missing", "anew"]),
    "batch cut off": (
        lambda f: shorten(f / "test_batch.bin", 100),
        ["test_batch.bin: ", "are no whole records", "anew"],
    ),
    "label of CIFAR-100": (
        lambda f: (f / "data_batch_2.bin").write_bytes(b"\x63" * 3073),
        ["data_batch_2.bin: label 99 is outside 0 to 9"],
    ),
}


@pytest.mark.parametrize("name", CIFAR_FAULTS)
def test_cifar_input(tmp_path: Path, name: str) -> None:
    damage, expected = CIFAR_FAULTS[name]
    root = write_cifar(tmp_path / "cifar")
    damage(root / "cifar-10-batches-bin")
    where = [] if name == "no root" else [f"data.root={root}"]
    message = call("train", *CIFAR, *where, f"output_dir={tmp_path}/run").mistake()
    for words in expected:
        assert words in message


def test_no_cifar_at_all(tmp_path: Path) -> None:
    message = call("train", *CIFAR, f"data.root={tmp_path}", f"output_dir={tmp_path}/run").mistake()
    assert f"{tmp_path}: no CIFAR data found" in message


@pytest.mark.parametrize("options", [["stage=bas"], COUPLED])
def test_a_loss_that_is_not_finite_names_its_images(tmp_path: Path, options: list[str]) -> None:
    """A standard deviation of 0 makes images infinite; the network's final weights are not written."""
    outcome = call("train", *GENERATED, f"output_dir={tmp_path}", *options, "data.std=[0,64,64]")
    message = outcome.mistake()
    assert "step 0 (epoch 0, batch 0): not finite: loss_ce = nan" in message
    numbers = message.partition("(images ")[2].partition(")")[0].split(", ")
    assert len(numbers) == 16
    assert all(0 <= int(number) < 64 for number in numbers)
    assert "the weights are untouched" in message
    assert not (tmp_path / "model.safetensors").exists()


def test_an_index_outside_the_bank() -> None:
    coupling = FeatureGateCoupling(10, 4, num_neighbors=2)
    rows = torch.rand(2, 4)
    for indices in ([3, 10], [-1, 3]):
        with pytest.raises(InputError, match="outside a bank of 10 rows"):
            coupling(rows, rows, torch.tensor(indices), 1)


def test_an_index_that_occurs_twice_keeps_its_last_row() -> None:
    bank, other = MemoryBank(10, 4), MemoryBank(10, 4)
    other.load_state_dict(bank.state_dict())
    queries = torch.rand(3, 4)
    bank.update(torch.tensor([5, 2, 5]), queries)
    other.update(torch.tensor([2, 5]), queries[1:])
    assert torch.equal(bank.memory, other.memory)


def test_read_only_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("vireo.engine.folder.tempfile.TemporaryFile", refuse)
    message = call("train", *GENERATED, f"output_dir={tmp_path}/run").mistake()
    assert f"{tmp_path}/run: the output folder cannot be written (read-only file system)" in message
    assert "choose another folder with output_dir=" in message


def test_eval_to_a_full_disk(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vireo.engine.folder.tempfile.TemporaryFile", full)
    message = call("eval", f"run={run}", f"out={tmp_path}/eval.json").mistake()
    assert f"{tmp_path}: the output folder cannot be written (no space left on device)" in message
    assert "choose another folder with out=" in message
