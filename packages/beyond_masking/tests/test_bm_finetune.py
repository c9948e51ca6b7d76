"""``beyond-masking-finetune``: from scratch and from pre-trained weights, on each kind of data, and its mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bm_command_line import (
    CLASSES,
    DATA,
    FINETUNE,
    FOLDER,
    IMAGENET,
    MODEL,
    SIZE,
    call,
    copy_of,
    differing,
    finetune,
    logged,
    losses,
    pretrain,
    read,
    weights,
    write_folders,
)
from omegaconf import OmegaConf
from safetensors.torch import save_file

from beyond_masking import to_official
from beyond_masking.build import build_encoder, load_encoder
from beyond_masking.load import load_run
from vireo.data import Mixing, batch_key, build_dataset, labelled_loader

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

MODEL_CONFIG = OmegaConf.merge({"in_chans": 3}, OmegaConf.from_dotlist(MODEL).model)
STILL = ["optim.lr=1e-30", "optim.min_lr=0", "optim.weight_decay=0", "epochs=1"]  # too small a step for float32
UNMIXED = ["mixing.mixup=0", "mixing.cutmix=0", "augmentation.erasing=0", "augmentation.scale=[0.6,1]"]


def first_batch(loader: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return next(iter(loader))


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs."""
    monkeypatch.setattr("beyond_masking.report.write_run_report", lambda *_: None)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of pre-training runs, by degradation."""
    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beyond_masking.report.write_run_report", lambda *_: None)
        for name in ("zoomed_in", "decolorized"):
            pretrain(folder / name, f"degradation.name={name}", "epochs=1")
    return {name: folder / name for name in ("zoomed_in", "decolorized")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on generated data, with its report."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    finetune(folder, "run.ema_decay=0.5")
    return folder


def test_a_run_leaves_its_files(run: Path) -> None:
    names = {"config.yaml", "classes.json", "log.jsonl", "metrics.json", "model.safetensors", "report.html"}
    assert names <= {path.name for path in run.iterdir()}
    assert len(read(run / "classes.json")) == 6
    metrics = read(run / "metrics.json")
    assert metrics["best"]["monitor"] == "top1_error"
    assert metrics["metrics"].keys() == {"top1_error", "top5_error", "top1_accuracy", "top5_accuracy"}
    assert metrics["metrics"]["top1_error"] + metrics["metrics"]["top1_accuracy"] == pytest.approx(100)
    assert len(logged(run, "eval")) == 2
    assert len(losses(run)) == 2 * (64 // 16)


def test_the_loss_of_a_step_is_that_of_the_recipe(tmp_path: Path) -> None:
    """The first step again by hand: same start, same batch, mixed by the key of the batch, soft labels."""
    finetune(tmp_path, "model.drop_path_rate=0", "epochs=1")
    config = load_run(tmp_path).config
    network = load_run(tmp_path, untrained=True).network.train()
    dataset = build_dataset(config.data, train=True)
    images, targets = first_batch(labelled_loader(dataset, config.data, SIZE, config.augmentation))
    mixed, soft = Mixing(6, 0.8, 1.0, label_smoothing=0.1).mix(images, targets["label"], batch_key(0, 0, 0))
    by_hand = -(soft * F.log_softmax(network(mixed), 1)).sum(1).mean()
    assert not torch.equal(mixed, images)
    assert losses(tmp_path)[0]["loss"] == pytest.approx(by_hand.item(), rel=1e-6)


def test_rates_rise_by_depth_and_with_the_batch(tmp_path: Path) -> None:
    finetune(tmp_path, "epochs=3", "optim.layer_decay=0.5")
    rates = [line["lr"] for line in logged(tmp_path)]  # of the head
    peak = 1e-3 * 16 / 256
    assert rates[:4] == pytest.approx([0, peak / 3, 2 * peak / 3, peak])
    assert rates[4] == pytest.approx(peak)
    assert 1e-6 < rates[-1] < rates[-2] < peak
    groups = torch.load(sorted((tmp_path / "checkpoints").glob("step_*.pt"))[-1], weights_only=True)["optimizer"]
    scales = {round(group["initial_lr"] / peak, 6) for group in groups["param_groups"]}
    assert scales == {1, 0.5, 0.25, 0.125}  # head; two blocks; patch embedding


def test_the_encoder_starts_with_the_pre_trained_weights(pretrained: dict[str, Path], tmp_path: Path) -> None:
    finetune(tmp_path, f"init={pretrained['zoomed_in']}", *STILL)
    ours, theirs = weights(tmp_path), weights(pretrained["zoomed_in"])
    carried = [key for key in ours if key.startswith(("blocks.", "patch_embed."))]
    assert len(carried) == 2 + 2 * 12
    for key in carried:
        assert torch.equal(ours[key], theirs[f"encoder.{key}"]), key
    assert {key for key in ours if key not in carried} == {
        "pos_embed",
        "fc_norm.weight",
        "fc_norm.bias",
        "head.weight",
        "head.bias",
    }
    assert torch.equal(ours["fc_norm.weight"], torch.ones(24))
    assert 0 < ours["head.weight"].abs().max() < 1e-4  # scaled by 0.001


def test_a_checkpoint_in_the_authors_layout(pretrained: dict[str, Path], tmp_path: Path) -> None:
    state = to_official(load_run(pretrained["zoomed_in"]).pretraining)
    assert "encoder.blocks.0.attn.q_bias" in state
    torch.save({"model": state, "epoch": 299}, tmp_path / "theirs.pth")
    finetune(tmp_path / "theirs", f"init={tmp_path / 'theirs.pth'}", *STILL)
    finetune(tmp_path / "ours", f"init={pretrained['zoomed_in']}", *STILL)
    assert differing(tmp_path / "theirs", tmp_path / "ours") == []


def test_kernels_of_gray_images(pretrained: dict[str, Path], tmp_path: Path) -> None:
    init = f"init={pretrained['decolorized']}"
    message = call("finetune", *DATA, *FINETUNE, f"output_dir={tmp_path}/x", init).mistake()
    assert "the patch kernels are those of gray images" in message
    assert "set patch_embed=replicate" in message
    gray = weights(pretrained["decolorized"])["encoder.patch_embed.proj.weight"]
    kernels = {}
    for choice in ("replicate", "skip"):
        finetune(tmp_path / choice, init, f"patch_embed={choice}", *STILL)
        kernels[choice] = weights(tmp_path / choice)["patch_embed.proj.weight"]
    assert gray.shape == (24, 1, 7, 7)
    assert torch.equal(kernels["replicate"], gray.expand(-1, 3, -1, -1) / 3)
    assert not torch.allclose(kernels["skip"], kernels["replicate"])


def test_read_out_by_class_token(pretrained: dict[str, Path], tmp_path: Path) -> None:
    """Positions and class token are learned anew, the pre-training's norm serves."""
    finetune(tmp_path, "readout=cls", f"init={pretrained['zoomed_in']}", *STILL)
    ours, theirs = weights(tmp_path), weights(pretrained["zoomed_in"])
    assert ours["pos_embed"].shape == (1, 17, 24)
    assert torch.equal(ours["norm.weight"], theirs["encoder.norm.weight"])
    assert torch.equal(ours["blocks.1.mlp.fc2.weight"], theirs["encoder.blocks.1.mlp.fc2.weight"])
    assert load_run(tmp_path).encoder.global_pool == "token"


def test_another_image_size_than_the_pre_training(pretrained: dict[str, Path], tmp_path: Path) -> None:
    finetune(tmp_path, "model.img_size=35", f"init={pretrained['zoomed_in']}", *STILL)
    assert weights(tmp_path)["pos_embed"].shape == (1, 25, 24)


def test_few_labels(tmp_path: Path) -> None:
    finetune(tmp_path, "data.train_per_class=4", "data.batch_size=8", "epochs=1")
    assert len(losses(tmp_path)) == 6 * 4 // 8


def test_it_learns(tmp_path: Path) -> None:
    """Colours that say the class: with a step of useful size the error falls far below chance."""
    easy = ["data.num_classes=3", "data.train_images=240", "data.val_images=90", "data.class_colours=true"]
    finetune(tmp_path, *easy, *UNMIXED, "optim.lr=0.15", "epochs=8")
    assert logged(tmp_path, "eval")[-1]["metrics"]["top1_error"] < 30
    assert "top5_error" not in logged(tmp_path, "eval")[-1]["metrics"]  # of three classes


@pytest.mark.parametrize("data", [FOLDER, IMAGENET])
def test_folders_of_images(data: list[str], tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3}, vary=True)
    finetune(tmp_path / "run", f"data.root={root}", "augmentation.rand_augment=rand-m9-mstd0.5-inc1", data=data)
    assert read(tmp_path / "run" / "classes.json") == list(CLASSES)
    assert len(losses(tmp_path / "run")) == 2  # 18 images: a batch of 16 an epoch, the rest is left out


def test_augmentation_of_workers_follows_the_configuration(tmp_path: Path) -> None:
    """Without crop, flip, RandAugment and erasing, training sees what evaluation sees; with any of them it does not."""
    root = write_folders(tmp_path, {"train": 6, "val": 3})
    data = OmegaConf.create(
        {
            "format": "folder",
            "root": str(root),
            "train_split": "train",
            "val_split": "val",
            "batch_size": 18,
            "eval_batch_size": 18,
            "resident": False,
            "train_per_class": None,
            "workers": 0,
            "on_error": "raise",
            "check_images": "none",
        }
    )
    dataset = build_dataset(data, train=True)

    def batch(**changes: Any) -> torch.Tensor:
        still = {"scale": [1.0, 1.0], "flip": 0.0, "rand_augment": None, "erasing": 0.0}
        images, targets = first_batch(labelled_loader(dataset, data, 32, OmegaConf.create({**still, **changes})))
        return images[targets["index"].argsort()]

    whole, _ = first_batch(labelled_loader(dataset, data, 32))
    torch.testing.assert_close(batch(), whole)
    for change in ({"scale": [0.3, 0.5]}, {"flip": 1.0}, {"rand_augment": "rand-m9-n4"}, {"erasing": 1.0}):
        assert (batch(**change) - whole).abs().mean() > 0.01, change


def test_unreadable_images_are_listed(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3})
    (root / "train" / "ant" / "000.jpg").write_bytes(b"")
    arguments = [*IMAGENET, *FINETUNE, f"data.root={root}", f"output_dir={tmp_path}/run"]
    assert "train/ant/000.jpg" in call("finetune", *arguments).mistake()
    finetune(tmp_path / "run", f"data.root={root}", "data.on_error=skip", "epochs=1", data=IMAGENET)
    assert "train/ant/000.jpg" in (tmp_path / "run" / "skipped.txt").read_text()


def test_encoder_of_a_run_by_function(pretrained: dict[str, Path]) -> None:
    network = build_encoder(MODEL_CONFIG, readout="mean", num_classes=5)
    load_encoder(network, str(pretrained["zoomed_in"]))
    theirs = load_run(pretrained["zoomed_in"]).encoder
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = theirs.norm(network.eval().forward_visible(images))
        torch.testing.assert_close(tokens, theirs.forward_visible(images))
        assert network(images).shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["readout=none"], ["readout: a classifier reads something out", "use mean or cls"]),
        (["readout=max"], ["unknown readout 'max'", "use one of none, mean, cls"]),
        (["optim.lr=0"], ["optim.lr: a rate of 0 trains nothing"]),
        (["optim.layer_decay=2"], ["layer_decay 2 is not in (0, 1]"]),
        (["optim.lrr=1"], ["nearest key is 'optim.lr'"]),
        (["mixing.label_smoothing=2"], ["label_smoothing 2 is not between 0 and 1"]),
        (["augmentation.erasing=2"], ["p 2 is no probability"]),
        (["augmentation.scale=[0,1]"], ["0 < scale <= 1"]),
        (["data.resident=false", "augmentation.rand_augment=many"], ["'many' is no policy of timm's RandAugment"]),
        (["data.batch_size=65"], ["data.batch_size: 64 images do not fill a batch of 65", "use at most 64"]),
        (["data.train_per_class=0"], ["0 images per class cannot be had"]),
        (["model.img_size=30"], ["not divided by patches of 7"]),
        (["patch_embed=copy", "init=RUN"], ["patch_embed: unknown choice 'copy'", "use strict, skip or replicate"]),
        (["init=/nowhere.pth"], ["/nowhere.pth: no such file"]),
        (["model.embed_dim=48", "init=RUN"], ["the run's model has embed_dim 24; this one has embed_dim 48"]),
        (
            ["model.depth=3", "model.patch_size=14", "init=RUN"],
            ["has patch_size 7, depth 2; this one has patch_size 14, depth 3", "model.patch_size=7 model.depth=2"],
        ),
        (["model.positions=sincos_2d", "init=RUN"], ["has positions sinusoid; this one has positions sincos_2d"]),
        (["data=folder"], ["data.root: has no value", "give the folder of the data with data.root=DIR"]),
        (["data=folder", "data.root=/nowhere"], ["/nowhere"]),
    ],
)
def test_mistakes(pretrained: dict[str, Path], tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    given = [text.replace("RUN", str(pretrained["zoomed_in"])) for text in arguments]
    data = [] if "data=folder" in given else DATA
    outcome = call("finetune", *data, *FINETUNE, f"output_dir={tmp_path}/run", *given)
    message = outcome.mistake()
    for expected in words:
        assert expected in message
    assert "step 1" not in outcome.err  # it is known before training


def test_weights_that_do_not_fit(pretrained: dict[str, Path], tmp_path: Path) -> None:
    """A bare file says nothing of its model: the tensors do."""
    arguments = [*DATA, *FINETUNE, f"output_dir={tmp_path}/run"]
    file = pretrained["zoomed_in"] / "model.safetensors"
    message = call("finetune", *arguments, f"init={file}", "model.depth=3").mistake()
    assert f"{file}: the checkpoint does not fit the encoder" in message
    assert "use the model of its pre-training" in message
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert "other.safetensors" in call("finetune", *arguments, f"init={tmp_path}/other.safetensors").mistake()


def test_a_pre_training_that_is_not_finished(pretrained: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(pretrained["zoomed_in"], tmp_path / "half")
    (folder / "model.safetensors").unlink()
    message = call("finetune", *DATA, *FINETUNE, f"output_dir={tmp_path}/run", f"init={folder}").mistake()
    assert f"{folder}: holds no model.safetensors: no run, or one that is not finished" in message


def test_splits_with_other_classes(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", {"train": 6, "val": 3})
    (root / "val" / "cat").rename(root / "val" / "dog")
    message = call("finetune", *FOLDER, *FINETUNE, f"data.root={root}", f"output_dir={tmp_path}/run").mistake()
    assert "different classes (2 in one only: cat, dog)" in message


def test_help_loads_nothing_heavy() -> None:
    for script in ("finetune", "eval"):
        code = (
            f"import sys; sys.argv = ['beyond-masking-{script}', '--help']\n"
            f"from beyond_masking.{script} import main\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"beyond-masking-{script} " in done.stdout
