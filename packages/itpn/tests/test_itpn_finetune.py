"""``itpn-finetune``: from scratch and from pre-trained weights, HiViT and Fast-iTPN, on each kind of data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from itpn_command_line import CLASSES, DATA, FINETUNE, FOLDER, IMAGENET, SIZE, STILL, call, fast, finetune
from itpn_pretrain_runs import PIXEL, pretrain
from safetensors.torch import save_file

from itpn.load import load_run
from itpn.official import to_official
from vireo.data import Mixing, batch_key, build_dataset, labelled_loader
from vireo.testing.runs import copy_of, differing, logged, losses, read, weights, write_folders

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

REPORT = "itpn.report.write_run_report"


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs."""
    monkeypatch.setattr(REPORT, lambda *_, **__: None)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pre-training run."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("itpn.pretraining_report.write_run_report", lambda *_, **__: None)
        pretrain(folder, *PIXEL, "epochs=1")
    return folder


def test_a_run_leaves_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    finetune(tmp_path, "run.ema_decay=0.5", "+paper_metrics.top1_accuracy=85.5")
    names = {"config.yaml", "classes.json", "log.jsonl", "metrics.json", "model.safetensors", "report.html"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert len(read(tmp_path / "classes.json")) == 6
    metrics = read(tmp_path / "metrics.json")
    assert metrics["best"]["monitor"] == "top1_error"
    assert metrics["metrics"].keys() == {"top1_error", "top5_error", "top1_accuracy", "top5_accuracy"}
    assert len(logged(tmp_path, "eval")) == 2
    assert len(losses(tmp_path)) == 2 * (64 // 16)
    assert "85.5" in (tmp_path / "report.html").read_text()


def test_the_loss_of_a_step_is_that_of_the_recipe(tmp_path: Path) -> None:
    """The first step again by hand: same start, same batch, mixed by the key of the batch, soft labels."""
    finetune(tmp_path, "epochs=1", "mixing.mixup=0.8", "mixing.cutmix=1", "augmentation.erasing=0.25")
    config = load_run(tmp_path).config
    network = load_run(tmp_path, untrained=True).network.train()
    dataset: Any = build_dataset(config.data, train=True)
    loader: Any = labelled_loader(dataset, config.data, SIZE, config.augmentation)
    images, targets = next(iter(loader))
    mixed, soft = Mixing(6, 0.8, 1.0, label_smoothing=0.1).mix(images, targets["label"], batch_key(0, 0, 0))
    by_hand = -(soft * F.log_softmax(network(mixed), 1)).sum(1).mean()
    assert not torch.equal(mixed, images)
    assert losses(tmp_path)[0]["loss"] == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize(("schedule", "second"), [("cosine", 1 / 4), ("warmup_cosine", 1 / 3)])
def test_rates_rise_with_the_steps_and_by_depth(tmp_path: Path, schedule: str, second: float) -> None:
    """Four steps of warm-up; two stages of one block and one of two, whose merges belong to the blocks before."""
    finetune(tmp_path, "epochs=2", f"optim.schedule={schedule}", "optim.layer_decay=0.5")
    rates, peak = [line["lr"] for line in logged(tmp_path)], 4e-3 * 16 / 256
    assert rates[:3] == pytest.approx([0, second * peak, 2 * second * peak])
    assert rates[4] == pytest.approx(peak)
    assert rates[-1] < rates[-2] < peak
    content = torch.load(sorted((tmp_path / "checkpoints").glob("step_*.pt"))[-1], weights_only=True)
    scales = sorted({group["initial_lr"] / peak for group in content["optimizer"]["param_groups"]}, reverse=True)
    per_layer = 0.5 ** (13 / 5)
    assert scales == pytest.approx([per_layer**k for k in range(6)])


def test_the_backbone_starts_with_the_pre_trained_weights(pretrained: Path, tmp_path: Path) -> None:
    """Relative tables are not in a pre-training on pixels: they start from zero, and the run says so."""
    outcome = finetune(tmp_path, f"init={pretrained}", "+model.rel_pos=bias", "head_std=2e-5", *STILL)
    assert "fresh: relative tables (2), classifier (4)" in outcome.out.replace("relative position", "relative")
    ours, theirs = weights(tmp_path), weights(pretrained)
    carried = [key for key in ours if f"backbone.{key}" in theirs]
    assert {"absolute_pos_embed", "patch_embed.norm.weight", "blocks.1.reduction.weight"} < set(carried)
    for key in carried:
        assert torch.equal(ours[key], theirs[f"backbone.{key}"]), key
    tables = [key for key in ours if key.endswith("relative_position_bias_table")]
    assert set(ours) - set(carried) == {*tables, "fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert len(tables) == 2
    assert all(ours[key].abs().max() < 1e-20 for key in tables)
    assert 0 < ours["head.weight"].abs().max() < 2e-4
    assert float(ours["head.weight"].std()) == pytest.approx(2e-5, rel=0.2)


def test_a_checkpoint_in_the_authors_layout(pretrained: Path, tmp_path: Path) -> None:
    state = to_official(load_run(pretrained).network)
    assert "blocks.0.mlp.fc1.weight" in state
    torch.save({"model": state, "epoch": 299}, tmp_path / "theirs.pth")
    finetune(tmp_path / "theirs", f"init={tmp_path / 'theirs.pth'}", *STILL)
    finetune(tmp_path / "ours", f"init={pretrained}", *STILL)
    assert differing(tmp_path / "theirs", tmp_path / "ours") == []


def test_fast_itpn_at_another_size(tmp_path: Path) -> None:
    """Trained from scratch, then from that file as DeepSpeed would have written it, on larger images."""
    fast(tmp_path / "first", "run.ema_decay=0.9", "optim.layer_scheme=beit", "+model.init_values=0.1")
    state = weights(tmp_path / "first")
    assert any(key.endswith("mlp.ffn_ln.weight") for key in state)
    torch.save({"module": state}, tmp_path / "fast.pt")
    outcome = fast(tmp_path / "larger", f"init={tmp_path / 'fast.pt'}", "model.img_size=48", *STILL)
    assert "fresh: classifier (4)" in outcome.out
    ours = weights(tmp_path / "larger")
    assert state["pos_embed"].shape == (1, 16, 32)
    assert ours["pos_embed"].shape == (1, 36, 32)
    assert torch.equal(ours["blocks.5.mlp.w1.weight"], state["blocks.5.mlp.w1.weight"])
    assert (ours["head.weight"] != state["head.weight"]).any()


def test_few_labels(tmp_path: Path) -> None:
    finetune(tmp_path, "data.train_per_class=4", "data.batch_size=8", "epochs=1")
    assert len(losses(tmp_path)) == 6 * 4 // 8


def test_it_learns(tmp_path: Path) -> None:
    """Colours that say the class: the error falls below 66.7 percent, chance."""
    easy = ["data.num_classes=3", "data.train_images=240", "data.val_images=90", "data.class_colours=true"]
    finetune(tmp_path, *easy, "optim.lr=0.2", "epochs=8", "eval_every=8", "optim.layer_decay=1")
    assert logged(tmp_path, "eval")[-1]["metrics"]["top1_error"] < 45
    assert "top5_error" not in logged(tmp_path, "eval")[-1]["metrics"]  # of three classes


@pytest.mark.parametrize("data", [FOLDER, IMAGENET])
def test_folders_of_images(data: list[str], tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3}, vary=True)
    finetune(tmp_path / "run", f"data.root={root}", "data.normalize=half", data=data)
    assert read(tmp_path / "run" / "classes.json") == list(CLASSES)
    assert len(losses(tmp_path / "run")) == 2  # 18 images: a batch of 16 an epoch, the rest is left out


def test_recomputing_blocks_changes_nothing(tmp_path: Path) -> None:
    for name in ("false", "true"):
        finetune(tmp_path / name, f"grad_checkpointing={name}", "epochs=1", "eval_every=9")
    for one, other in zip(losses(tmp_path / "false"), losses(tmp_path / "true")):
        assert one == pytest.approx(other, rel=1e-6)


def test_a_pre_training_that_is_not_finished(pretrained: Path, tmp_path: Path) -> None:
    folder = copy_of(pretrained, tmp_path / "half")
    (folder / "model.safetensors").unlink()
    message = call("finetune", *DATA, *FINETUNE, f"output_dir={tmp_path}/run", f"init={folder}").mistake()
    assert f"{folder}: holds no model.safetensors: no run, or one that is not finished" in message


def test_weights_that_do_not_fit(pretrained: Path, tmp_path: Path) -> None:
    """A bare file says nothing of its model: the tensors do."""
    arguments = [*DATA, *FINETUNE, f"output_dir={tmp_path}/run"]
    file = pretrained / "model.safetensors"
    message = call("finetune", *arguments, f"init={file}", "model.depths=[1,1,3]").mistake()
    assert f"{file}: the checkpoint does not fit the backbone" in message
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert "other.safetensors" in call("finetune", *arguments, f"init={tmp_path}/other.safetensors").mistake()


@pytest.mark.parametrize("script", ["finetune", "eval", "predict"])
def test_help_loads_nothing_heavy(script: str) -> None:
    code = (
        f"import sys; sys.argv = ['itpn-{script}', '--help']\n"
        f"from itpn.{script} import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"itpn-{script} " in done.stdout
