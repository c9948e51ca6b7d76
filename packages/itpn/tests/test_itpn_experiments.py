"""Every published setting of fine-tuning composes, says what it reproduces, has the recipe's numbers, and builds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from itpn_command_line import call
from omegaconf import DictConfig

from itpn import conf
from itpn.build import build_adamw, build_backbone

FOLDER = Path(conf.__path__[0]) / "experiment"
# C, parameters in millions (section 3), image side, epochs, warm-up, images a step, rate of a step, least rate, layer
# decay, drop path and the paper's top-1 (sections 4 and 6)
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "finetune_pixel_base": (512, 78.558, 224, 100, 5, 1024, 1.6e-3, 5e-6, 0.60, 0.15, 85.5),
    "finetune_pixel_large": (768, 288.49, 224, 50, 5, 1024, 4e-3, 5e-6, 0.55, 0.2, 86.7),
    "finetune_clip_base": (512, 78.584, 224, 100, 20, 2048, 5e-4, 1e-6, 0.60, 0.1, 86.2),
    "finetune_clip_large": (768, 288.56, 224, 50, 5, 1024, 2e-4, 1e-6, 0.55, 0.25, 87.8),
    "finetune_clip_large_256": (768, None, 256, 50, 5, 1024, 2e-4, 1e-6, 0.55, 0.25, 88.0),
    "fast_tiny_224": (384, 24.220, 224, 100, 5, 1024, 1e-4, 1e-6, 0.80, 0.1, 85.1),
    "fast_tiny_384": (384, None, 384, 100, 5, 1024, 1e-4, 1e-6, 0.80, 0.1, 86.2),
    "fast_tiny_512": (384, None, 512, 100, 5, 1024, 1e-4, 1e-6, 0.80, 0.1, 86.5),
    "fast_small_224": (384, 39.903, 224, 100, 5, 1024, 1e-4, 1e-6, 0.90, 0.1, 86.4),
    "fast_small_384": (384, None, 384, 100, 5, 1024, 1e-4, 1e-6, 0.90, 0.1, 86.95),
    "fast_small_512": (384, None, 512, 100, 5, 1024, 1e-4, 1e-6, 0.90, 0.1, 87.8),
    "fast_base_224": (512, 84.825, 224, 20, 3, 1024, 1e-4, 1e-6, 0.90, 0.1, 87.4),
    "fast_base_512": (512, None, 512, 20, 3, 1024, 1e-4, 1e-6, 0.90, 0.1, 88.5),
    "fast_large_640": (768, None, 640, 20, 3, 512, 5e-5, 1e-6, 0.95, 0.2, 89.5),
}


@cache
def composed(name: str) -> DictConfig:
    with initialize_config_module("itpn.conf", version_base="1.3"):
        return compose("finetune", [f"+experiment={name}", "data.root=/data"])


def comment(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    return "\n".join(line.removeprefix("#") for line in lines[1:] if line.startswith("#"))


def test_every_setting_has_its_file() -> None:
    names = {path.stem for path in FOLDER.glob("*.yaml") if path.stem.startswith(("finetune_", "fast_"))}
    assert names == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_headers(name: str) -> None:
    text, accuracy = comment(name), PUBLISHED[name][-1]
    assert f"itpn-finetune +experiment={name} init=" in text
    assert "Hardware:" in text
    assert f"Expected: {accuracy} % top-1" in text
    assert dict(composed(name).paper_metrics) == {"top1_accuracy": accuracy}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe(name: str) -> None:
    """Sections 3 and 4."""
    config = composed(name)
    width, parameters, size, epochs, warmup, images, rate, least, decay, drop_path, _ = PUBLISHED[name]
    fast, pixel = name.startswith("fast"), "pixel" in name
    optim, data, mixing, augmentation = config.optim, config.data, config.mixing, config.augmentation
    assert (config.epochs, optim.warmup_epochs, config.model.drop_path_rate) == (epochs, warmup, drop_path)
    assert data.batch_size * config.run.accumulate == images
    assert optim.lr * images / 256 == pytest.approx(rate)
    assert (optim.min_lr, optim.layer_decay, list(optim.betas), optim.weight_decay) == (
        least,
        decay,
        [0.9, 0.999],
        0.05,
    )
    assert (optim.layer_scheme, optim.schedule) == ("beit" if fast else "itpn", "cosine" if pixel else "warmup_cosine")
    assert (mixing.mixup, mixing.cutmix, mixing.label_smoothing) == (0.8, 1.0, 0.1)
    assert (list(augmentation.scale), augmentation.flip, augmentation.erasing) == ([0.08, 1.0], 0.5, 0.25)
    assert augmentation.rand_augment == "rand-m9-mstd0.5-inc1"
    assert (data.normalize, data.resident) == ("half" if "clip" in name else "imagenet", False)
    assert data.crop_pct == (1.0 if size >= 384 else 0.875)
    assert config.run.ema_decay == (0.9999 if fast else None)
    assert config.head_std == (2e-4 if fast else 2e-5 if pixel else 0.02)
    assert (config.init, config.output_dir) == (None, f"outputs/{name}")
    with torch.device("meta"):
        network = build_backbone(config.model, 1000, config.head_std)
    assert (network.embed_dim, network.grid_size) == (width, (size // 16, size // 16))
    names = {key.rpartition(".")[2] for key in network.state_dict()}
    assert ("relative_position_bias_table" in names) == (not fast)
    assert ("gamma_1" in names) == (not pixel)
    if parameters is not None:
        found = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        assert found == pytest.approx(parameters, abs=0.006)
    groups = build_adamw(network, optim, images).param_groups
    assert max(group["lr"] for group in groups) == pytest.approx(rate)


@pytest.mark.parametrize("script", ["pretrain", "segment", "detect"])
@pytest.mark.parametrize("name", ["finetune_pixel_base", "fast_tiny_224"])
def test_the_other_scripts_refuse_experiments_of_fine_tuning(tmp_path: Path, script: str, name: str) -> None:
    message = call(script, f"+experiment={name}", f"output_dir={tmp_path / 'run'}").mistake()
    words = (
        "these are the settings of itpn-finetune" if script == "pretrain" else "made for the configuration of another"
    )
    assert words in message


@pytest.mark.parametrize("name", ["pixel_base_400", "clip_base_300", "ade20k_pixel_base", "coco_pixel_base_1x"])
def test_fine_tuning_refuses_those_of_the_others(tmp_path: Path, name: str) -> None:
    message = call("finetune", f"+experiment={name}", f"output_dir={tmp_path / 'run'}").mistake()
    downstream = name.startswith(("ade20k", "coco"))
    words = "made for the configuration of another script" if downstream else "these are the settings of itpn-pretrain"
    assert words in message
