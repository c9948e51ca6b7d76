"""Every published setting composes, says what it reproduces, has the recipe's numbers, and builds its network."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from bm_command_line import call
from bm_golden import load
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from beyond_masking import conf
from beyond_masking.build import build_encoder, build_pretraining
from vireo.engine import schedule_for

FOLDER = Path(conf.__path__[0]) / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# task, mask ratio, epochs and the paper's top-1 (section 6)
PUBLISHED = {
    "zoomed_in": ("zoomed_in", 0, 300, "82.7"),
    "zoomed_out": ("zoomed_out", 0, 300, "82.5"),
    "distorted": ("distorted", 0, 300, "82.1"),
    "blurred": ("blurred", 0, 300, "81.8"),
    "decolorized": ("decolorized", 0, 300, "81.4"),
    "mae": ("none", 0.75, 300, "82.9"),
    "mae_50": ("none", 0.75, 50, "82.3"),
    "mae_100": ("none", 0.75, 100, "82.6"),
    "mae_200": ("none", 0.75, 200, "82.8"),
    "integrated": ("zoomed_in", 0.75, 300, "83.2"),
    "integrated_50": ("zoomed_in", 0.75, 50, "82.7"),
    "integrated_100": ("zoomed_in", 0.75, 100, "83.0"),
    "integrated_200": ("zoomed_in", 0.75, 200, "83.1"),
}
FINETUNED = {"finetune_base": (100, 768), "finetune_large": (50, 1024), "finetune_scratch": (100, 768)}
OTHER = {"integrated_large", "demo", "finetune_demo", "coco_mask_rcnn_base"}
CROPS = {"zoomed_in": 288, "zoomed_out": 160}


@cache
def composed(name: str, entry: str = "pretrain") -> DictConfig:
    with initialize_config_module("beyond_masking.conf", version_base="1.3"):
        return compose(entry, [f"+experiment={name}", "data.root=/data"])


def comment(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    return "\n".join(line.removeprefix("#") for line in lines[1:] if line.startswith("#"))


def test_every_setting_has_its_file() -> None:
    assert sorted([*PUBLISHED, *FINETUNED, *OTHER]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_headers(name: str) -> None:
    text = comment(name)
    assert f"+experiment={name}" in text
    for word in ("Hardware:", "Expected:"):
        assert word in text
    if name in PUBLISHED:
        assert f"Expected: {PUBLISHED[name][3]} % top-1" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_pretraining_recipe(name: str) -> None:
    """Section 4."""
    config, (task, mask_ratio, epochs, _) = composed(name), PUBLISHED[name]
    assert (config.degradation.name, config.mask_ratio, config.epochs) == (task, mask_ratio, epochs)
    assert set(config.degradation) == {"name"}  # every option as published
    optim, data, augmentation = config.optim, config.data, config.augmentation
    assert (optim.lr, optim.min_lr, list(optim.betas)) == (1.5e-4, 1e-5, [0.9, 0.95])
    assert (optim.weight_decay, optim.warmup_epochs, data.batch_size) == (0.05, 20, 2048)
    gray = task == "decolorized"
    expected = ([0.08, 1.0], "bilinear", 0.0) if gray else ([0.2, 1.0], "bicubic", 0.5)
    assert (list(augmentation.scale), augmentation.interpolation, augmentation.flip) == expected
    assert (config.run.ema_decay, config.run.grad_clip, config.run.accumulate) == (None, None, 1)
    assert (config.normalize_target, config.init_weights, config.init) == (True, "published", None)
    assert config.output_dir == f"outputs/{name}"
    assert not data.resident
    with torch.device("meta"):
        model = build_pretraining(config)
    assert (model.crop_size, model.num_patches) == (CROPS.get(task, 224), 196)
    assert len(model.encoder.blocks) == 12
    assert len(model.decoder.blocks) == 4


def test_learning_rates_are_those_of_the_authors_program() -> None:
    """The case ``schedule``: 1.2e-3 for 2,048 images, 625 steps an epoch, through the configuration."""
    config = composed("integrated")
    assert config.optim.lr * config.data.batch_size / 256 == pytest.approx(1.2e-3)
    schedule = schedule_for(config.optim, config.epochs, 625, config.data.batch_size)
    expected = load("schedule")["pretrain_lr"].tolist()
    assert [1.2e-3 * schedule(step) for step in range(0, 187_500, 1250)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", FINETUNED)
def test_finetuning_recipe(name: str) -> None:
    """Section 4."""
    config, (epochs, width) = composed(name, "finetune"), FINETUNED[name]
    assert (config.epochs, config.model.embed_dim, config.model.drop_path_rate) == (epochs, width, 0.1)
    optim, mixing, augmentation = config.optim, config.mixing, config.augmentation
    assert (optim.lr, optim.min_lr, list(optim.betas), optim.weight_decay) == (1e-3, 1e-6, [0.9, 0.999], 0.05)
    assert (optim.layer_decay, optim.warmup_epochs) == (0.75, 5)
    assert (mixing.mixup, mixing.cutmix, mixing.label_smoothing) == (0.8, 1.0, 0.1)
    assert (list(augmentation.scale), augmentation.erasing) == ([0.08, 1.0], 0.25)
    assert augmentation.rand_augment == "rand-m9-mstd0.5-inc1"
    assert (config.readout, config.data.batch_size, config.data.resident) == ("mean", 1024, False)
    with torch.device("meta"):
        encoder = build_encoder(config.model, readout=config.readout, num_classes=1000)
    parameters = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    if width == 768:  # 86.4 M; the biases of keys stay zero
        assert parameters - 12 * 768 == pytest.approx(86.4e6, rel=2e-3)


@pytest.mark.parametrize(
    ("script", "other", "name"), [("pretrain", "finetune", "finetune_demo"), ("finetune", "pretrain", "demo")]
)
def test_an_experiment_of_the_other_script_is_refused(tmp_path: Path, script: str, other: str, name: str) -> None:
    outcome = call(script, f"+experiment={name}", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 2
    assert f"these are the settings of beyond-masking-{other}" in outcome.err
