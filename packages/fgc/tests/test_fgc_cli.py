"""The console scripts from end to end on one tiny run, and the data formats they read."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fgc_command_line import (
    CIFAR,
    COUPLED,
    EPOCHS,
    FOLDER,
    call,
    differing,
    logged,
    losses,
    read,
    train,
    write_cifar,
    write_folders,
)
from safetensors.torch import load_file

from fgc.load import load_run
from fgc.official import to_official
from fgc.resnet import GatedResNet

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
SCRIPTS = re.findall(r"^fgc-(\w+) = ", PYPROJECT.read_text(), re.MULTILINE)
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of both stages on generated data."""
    folder = tmp_path_factory.mktemp("runs") / "both"
    train(folder, "gallery_images=1")
    return folder


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and curves take longer than these runs."""
    monkeypatch.setattr("fgc.report.write_run_report", lambda *_: None)


def test_scripts_are_found() -> None:
    assert {"train", "eval"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_and_loads_nothing_heavy(script: str) -> None:
    code = (
        f"import sys; sys.argv = ['fgc-{script}', '--help']\n"
        f"from fgc.{script} import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert f"fgc-{script} " in done.stdout
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 4.0  # not the time others take


@pytest.mark.parametrize("command", [["train", "optim.lrr=1"], ["eval", "latncy=true"]])
def test_exit_status_of_a_mistake(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"fgc.{command[0]}", *command[1:]], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "nearest key is" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_its_files(run: Path) -> None:
    names = {"config.yaml", "classes.json", "config.json", "log.jsonl", "metrics.json", "model.safetensors"}
    assert names <= {path.name for path in run.iterdir()}
    assert len(read(run / "classes.json")) == 6
    metrics = read(run / "metrics.json")["metrics"]
    assert {"top1_error", "pruning", "pruning_published", "exact_pruning", "overlap", "purity"} <= set(metrics)
    assert list(metrics["on_rate"]) == [str(block) for block in range(9)]
    assert list(metrics["overlap"]) == list(metrics["purity"]) == ["7", "8"]
    assert -0.1 < metrics["pruning"] < 1


def test_losses_of_each_stage(run: Path) -> None:
    """One epoch of batch shaping, then coupling; L0 begins one epoch after the coupling."""
    of_epochs = [
        {name for line in logged(run) if line["epoch"] == epoch for name in line["losses"]} for epoch in range(3)
    ]
    assert of_epochs == [{"loss_ce", "loss_bs"}, {"loss_ce", "loss_fgc"}, {"loss_ce", "loss_l0", "loss_fgc"}]
    assert [line["lr"] for line in logged(run)][:: len(logged(run)) // EPOCHS] == pytest.approx([0.1, 0.1, 0.01])


def test_banks_are_no_part_of_what_is_kept(run: Path) -> None:
    kept = load_file(run / "model.safetensors")
    assert not [key for key in kept if key.startswith("objective.")]
    assert len(kept) == 188
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    assert best["model"].keys() == kept.keys()
    newest = torch.load(sorted((run / "checkpoints").glob("step_*.pt"))[-1], weights_only=True)
    assert len(newest["model"]) == 188 + 4


def test_from_pretrained_gives_the_evaluated_network(run: Path) -> None:
    assert set(read(run / "config.json")) == {"blocks", "num_classes", "width", "hidden"}
    network, loaded = GatedResNet.from_pretrained(run), load_run(run)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(images), loaded.network(images))


def test_a_finished_run_says_so(run: Path) -> None:
    weights = (run / "model.safetensors").read_bytes()
    assert "this run is finished; set resume=never, or more epochs" in train(run, "gallery_images=1").err
    assert (run / "model.safetensors").read_bytes() == weights


def test_eval_repeats_the_numbers_of_training(run: Path, tmp_path: Path) -> None:
    outcome = call("eval", f"run={run}", f"out={tmp_path}/eval.json")
    assert outcome.status == 0, outcome.err
    assert read(tmp_path / "eval.json")["metrics"] == read(run / "metrics.json")["metrics"]
    assert "40 images" in outcome.out
    assert "gate purity@20" in outcome.out


def test_eval_on_other_data_and_blocks(run: Path, tmp_path: Path) -> None:
    arguments = [f"run={run}", f"out={tmp_path}/eval.json"]
    outcome = call("eval", *arguments, "data.eval_batch_size=7", "measured_blocks=[2]")
    assert outcome.status == 0, outcome.err
    metrics, whole = read(tmp_path / "eval.json")["metrics"], read(run / "metrics.json")["metrics"]
    assert list(metrics["overlap"]) == ["2"]
    assert metrics["top1_error"] == whole["top1_error"]
    assert metrics["pruning"] == pytest.approx(whole["pruning"], abs=1e-4)
    assert "data.root: the run's data (data=generated) has no such setting" in (
        call("eval", *arguments, "data.root=x").mistake()
    )
    assert "nearest key is 'data.root'" in call("eval", *arguments, "data.rot=x").mistake()


def test_eval_of_weights_in_the_authors_layout(run: Path, tmp_path: Path) -> None:
    network = load_run(run).network
    state = {f"module.{key}": value for key, value in to_official(network).items()}
    state["module.layer3.2.gate.gate_mb.params"] = torch.tensor([0.07, 0.5])
    state["module.layer3.2.gate.gate_mb.memory"] = torch.zeros(64, 16)
    optimizer = torch.optim.SGD(network.parameters(), 0.1).state_dict()
    file = tmp_path / "resnet20-99-BAS.pth"
    torch.save({"epoch": 100, "arch": "resnet20", "best_acc1": 82.8, "state_dict": state, "optimizer": optimizer}, file)
    outcome = call("eval", f"run={run}", f"weights={file}", f"out={tmp_path}/eval.json")
    assert outcome.status == 0, outcome.err
    assert read(tmp_path / "eval.json")["metrics"] == read(run / "metrics.json")["metrics"]


def test_eval_of_a_checkpoint_of_training(run: Path, tmp_path: Path) -> None:
    """``checkpoints/step_*.pt`` holds banks, which evaluation has no place for."""
    newest = sorted((run / "checkpoints").glob("step_*.pt"))[-1]
    outcome = call("eval", f"run={run}", f"weights={newest}", f"out={tmp_path}/eval.json")
    assert outcome.status == 0, outcome.err
    assert read(tmp_path / "eval.json")["metrics"] == read(run / "metrics.json")["metrics"]


def test_eval_with_latency(run: Path, tmp_path: Path) -> None:
    outcome = call("eval", f"run={run}", "latency=true", f"out={tmp_path}/eval.json")
    assert outcome.status == 0, outcome.err
    rows = read(tmp_path / "eval.json")["metrics"]["latency"]
    assert [row["on_rate"] for row in rows] == [0.25, 0.5, 0.75]
    assert all({"masked", "gather"} <= row["milliseconds"].keys() for row in rows)
    assert "gather" in outcome.out


def test_pictures_and_report_of_a_run(run: Path) -> None:
    assert "<html" in (run / "report.html").read_text()
    assert {path.suffix for path in (run / "gallery").iterdir()} <= {".png", ".jpg"}
    assert len(list((run / "gallery").glob("gates_*"))) == 1


def test_predict_draws_what_it_can(run: Path, tmp_path: Path) -> None:
    images = write_folders(tmp_path, {"images": 1}, classes=("a",)) / "images" / "a"
    (images / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    out = tmp_path / "out"
    outcome = call("predict", images, "--run", run, "--out", out, "--json", out / "found.json")
    assert outcome.status == 2
    assert str(images / "broken.jpg") in outcome.err
    assert "Traceback" not in outcome.err
    (found,) = read(out / "found.json")
    assert found["file_name"] == str(images / "000.jpg")
    assert found["class"] == read(run / "classes.json")[found["label"]]
    widths = [4] * 3 + [8] * 3 + [16] * 3
    assert len(found["open_channels"]) == len(widths)
    assert all(set(block) <= set(range(width)) for block, width in zip(found["open_channels"], widths))
    assert (out / "000.jpg").stat().st_size > 0
    assert call("predict", images / "000.jpg", "--run", run, "--out", out).status == 0


def test_mistakes_in_predict(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    picture = write_folders(tmp_path, {"images": 1}, classes=("a",)) / "images" / "a" / "000.jpg"
    assert "no image in this folder" in call("predict", tmp_path / "empty", "--run", run).mistake()
    assert "would replace images" in call("predict", picture, "--run", run, "--out", picture.parent).mistake()
    assert "holds no config.yaml" in call("predict", picture, "--run", tmp_path, "--out", tmp_path / "o").mistake()
    outcome = call("predict", picture, "--run", run, "--out", "/proc/nowhere")
    assert "choose another folder with --out" in outcome.mistake()


@pytest.mark.usefixtures("_no_report")
def test_one_stage_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``stage=both`` up to its second part is ``stage=bas``; from there it is ``stage=fgc init=...``.

    The second equality needs the same pictures: order, augmentation and noise are functions of the run's own epoch,
    which is 0 at the start of ``stage=fgc`` and 1 in the middle of ``stage=both``. Here the loader is told so.
    """
    bas, fgc, both = (tmp_path / name for name in ("bas", "fgc", "both"))
    train(both)
    train(bas, "stage=bas", "epochs=1")
    assert losses(bas) == losses(both)[:4]
    assert len(load_file(bas / "model.safetensors")) == 188

    from fgc import data

    def one_epoch_later(*arguments: Any, train: bool, **options: Any) -> Any:
        loader = build_loader(*arguments, train=train, **options)
        if train:
            batches = loader.batches
            loader.batches = lambda epoch, start=0: batches(epoch + 1, start)  # type: ignore[method-assign]
        return loader

    build_loader = data.build_loader
    monkeypatch.setattr(data, "build_loader", one_epoch_later)
    train(fgc, "stage=fgc", "epochs=2", f"init={bas}")
    assert losses(fgc) == losses(both)[4:]
    assert differing(fgc, both) == []
    metrics = [read(folder / "metrics.json")["metrics"] for folder in (fgc, both)]
    assert metrics[0] == metrics[1]


@pytest.mark.usefixtures("_no_report")
def test_coupling_from_the_banks_on(tmp_path: Path) -> None:
    """The controls and the storage of the banks change the coupling and nothing else of the first step."""
    common = [*COUPLED, "epochs=1", "eval_every=9"]
    first = {}
    for name, options in {
        "neighbours": [],
        "random": ["coupling.random_neighbors=true"],
        "alone": ["coupling.num_neighbors=0"],
        "unit": ["coupling.normalize_query=true"],
        "all": ["coupling.num_neighbors=1000"],
        "bfloat16": ["coupling.bank_dtype=bfloat16"],
        "blocks": ["coupling.blocks=[0,4]"],
    }.items():
        train(tmp_path / name, *common, *options)
        first[name] = losses(tmp_path / name)[0]
    assert len({values["loss_ce"] for values in first.values()}) == 1
    coupled = {name: values["loss_fgc"] for name, values in first.items()}
    assert len(set(coupled.values())) == len(coupled)
    assert coupled["all"] == pytest.approx(0, abs=1e-5)  # every row is a positive: num_neighbors >= N is no mistake
    assert coupled["bfloat16"] == pytest.approx(coupled["neighbours"], rel=0.05)
    newest = sorted((tmp_path / "bfloat16" / "checkpoints").glob("step_*.pt"))[-1]
    state = torch.load(newest, weights_only=True)["model"]
    assert state["objective.couplings.8.gate_bank.memory"].dtype == torch.bfloat16
    train(tmp_path / "bfloat16", *common, "coupling.bank_dtype=bfloat16", "epochs=2")  # goes on from it
    assert len(losses(tmp_path / "bfloat16")) == 8


@pytest.mark.usefixtures("_no_report")
def test_controller_moves_pruning_towards_its_target(tmp_path: Path) -> None:
    """Gates that are on half the time at first are closed until the target is near; another asks for no pressure."""
    common = ["stage=bas", "recipe.shaping_epochs=0", "recipe.rho_epochs=20", "epochs=24", "eval_every=99"]
    common.append("optim.milestones=[]")
    means, last_rho = {}, {}
    for target in (0.3, 0.7):
        folder = tmp_path / str(target)
        train(folder, *common, f"controller.target_pruning={target}")
        monitors = [line["monitors"] for line in logged(folder)]
        means[target] = [sum(entry["pruning"] for entry in part) / 4 for part in (monitors[:4], monitors[-4:])]
        last_rho[target] = monitors[-1]["rho"]
    assert abs(means[0.7][0] - 0.7) > 0.15
    assert abs(means[0.7][1] - 0.7) < 0.1  # in so small a network cross-entropy closes gates as well
    assert means[0.3][1] < means[0.7][1] - 0.1
    assert last_rho[0.3] < 1.5  # recipe.rho, where it started


@pytest.mark.usefixtures("_no_report")
def test_cifar_in_its_authors_files(tmp_path: Path) -> None:
    root = write_cifar(tmp_path / "cifar")
    outcome = train(tmp_path / "run", *CIFAR, f"data.root={root}", data=[])
    assert outcome.status == 0
    assert len(logged(tmp_path / "run", "eval")) == 1
    assert read(tmp_path / "run" / "classes.json")[0] == "airplane"
    moved = root.rename(tmp_path / "moved")
    outcome = call("eval", f"run={tmp_path}/run", f"data.root={moved}", f"out={tmp_path}/eval.json")
    assert outcome.status == 0, outcome.err
    assert "8 images" in outcome.out


@pytest.mark.usefixtures("_no_report")
def test_folders_of_images(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "test": 2, "other": 3})
    options = ["coupling.num_neighbors=500", "data.train_per_class=5", "data.batch_size=5", "data.val_split=test"]
    train(tmp_path / "run", f"data.root={root}", *options, data=FOLDER)
    assert read(tmp_path / "run" / "classes.json") == ["ant", "bee", "cat"]
    assert len(losses(tmp_path / "run")) == 3 * EPOCHS
    arguments = [f"run={tmp_path}/run", f"out={tmp_path}/eval.json"]
    assert "6 images" in call("eval", *arguments).out
    assert "9 images" in call("eval", *arguments, "data.val_split=other").out


@pytest.mark.usefixtures("_no_report")
def test_imagenet_folders_of_many_sizes(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 4, "val": 2}, vary=True)
    small = ["data=imagenet", "model=resnet18", "data.crop_size=32", "data.batch_size=6", "data.workers=0", "epochs=2"]
    stages = ["recipe.shaping_epochs=1", "coupling.num_neighbors=3", "gallery_images=0"]
    train(tmp_path / "run", *small, *stages, f"data.root={root}", data=[])
    assert list(logged(tmp_path / "run", "eval")[-1]["metrics"]["on_rate"]) == [str(block) for block in range(8)]
    outcome = call("eval", f"run={tmp_path}/run")
    assert outcome.status == 0, outcome.err
    measured, logged_last = read(tmp_path / "run" / "eval.json"), read(tmp_path / "run" / "metrics.json")
    assert measured["metrics"] == logged_last["metrics"]
