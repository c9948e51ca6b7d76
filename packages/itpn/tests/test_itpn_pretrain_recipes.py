"""The recipes of pre-training: experiments, learning rates and weight decay as published (section 4)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from itpn_golden import load, load_json
from itpn_pretraining import official_name
from omegaconf import DictConfig

from itpn import conf
from itpn.distill import FeatureDistillPretrain
from itpn.hivit import HiViT
from itpn.neck import PyramidNeck
from itpn.pixel import MaskedPyramidAutoencoder
from itpn.pretraining import build_adamw, build_pretraining
from vireo.engine.optim import schedule_for

EXPERIMENTS = Path(conf.__path__[0]) / "experiment"
# objective, epochs, channels, the paper's top-1 (section 6)
PUBLISHED = {
    "pixel_base_400": ("pixel", 400, 512, "85.1"),
    "pixel_base_1600": ("pixel", 1600, 512, "85.5"),
    "pixel_large_400": ("pixel", 400, 768, "86.3"),
    "pixel_large_1600": ("pixel", 1600, 768, "86.7"),
    "clip_base_300": ("clip", 300, 512, "85.9"),
    "clip_base_800": ("clip", 800, 512, "86.2"),
    "clip_large_300_base": ("clip", 300, 768, "87.0"),
    "clip_large_300": ("clip", 300, 768, "87.8"),
    "clip_large_256": ("clip", 300, 768, "88.0"),
}
OWN = ("pixel_", "clip_", "momentum_")
SMALL: dict[str, Any] = {"embed_dim": 32, "depths": (1, 1, 5), "num_heads": 2}


@cache
def composed(name: str) -> DictConfig:
    with initialize_config_module("itpn.conf", version_base="1.3"):
        return compose("pretrain", [f"+experiment={name}", "data.root=/data"])


def test_every_setting_has_its_file() -> None:
    names = {path.stem for path in EXPERIMENTS.glob("*.yaml") if path.stem.startswith(OWN)}
    assert names == {*PUBLISHED, "momentum_base_400"}


@pytest.mark.parametrize("name", [*PUBLISHED, "momentum_base_400"])
def test_headers(name: str) -> None:
    text = (EXPERIMENTS / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    assert f"itpn-pretrain +experiment={name}" in text
    assert "Hardware:" in text
    finetuning = text.split("itpn-finetune +experiment=")[1].split()[0]
    assert (EXPERIMENTS / f"{finetuning}.yaml").is_file()
    if name in PUBLISHED:
        assert f"Expected: {PUBLISHED[name][3]} % top-1" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe(name: str) -> None:
    """Section 4."""
    config, (objective, epochs, width, _) = composed(name), PUBLISHED[name]
    optim, data, augmentation = config.optim, config.data, config.augmentation
    assert (config.objective, config.epochs, config.output_dir) == (objective, epochs, f"outputs/{name}")
    assert (config.run.ema_decay, config.run.grad_clip, config.run.accumulate) == (None, None, 1)
    assert (optim.weight_decay, augmentation.interpolation, data.resident) == (0.05, "bicubic", False)
    rate = optim.lr * data.batch_size / 256
    if objective == "pixel":
        assert (rate, optim.min_lr, list(optim.betas)) == (pytest.approx(2.4e-3), 0, [0.9, 0.95])
        assert (data.batch_size, optim.warmup_epochs, data.normalize) == (4096, 40, "imagenet")
        assert (list(augmentation.scale), config.pixel.mask_ratio, config.neck.depth) == ([0.2, 1.0], 0.75, 2)
        assert config.pixel.mfm_weight == 0
    else:
        second = 0.999 if epochs == 800 else 0.98
        assert (rate, optim.min_lr, list(optim.betas)) == (pytest.approx(1.5e-3), 1e-5, [0.9, second])
        assert (data.batch_size, optim.warmup_epochs, data.normalize) == (2048, 5, "half")
        assert (list(augmentation.scale), augmentation.color_jitter, config.neck.depth) == ([0.08, 1.0], 0.4, 1)
        assert dict(config.mask) == {"num_masked": 75, "min_block": 16, "max_block": None}
        assert (config.teacher.input, config.distill.supervise, config.distill.mask_at) == ("official", "all", "late")
        assert config.model.drop_path_rate == (0.1 if width == 512 else 0.2)
    with torch.device("meta"):
        network = build_pretraining(config, teacher_dim=768)
    assert (network.backbone.embed_dim, network.neck.dim) == (width, 256)
    assert network.backbone.grid_size == ((16, 16) if name == "clip_large_256" else (14, 14))


@pytest.mark.parametrize(("name", "rate"), [("clip_lr", 5e-4), ("pixel_lr", 1.6e-3)])
def test_learning_rates_are_those_of_the_authors_programs(name: str, rate: float) -> None:
    """20 epochs of 37 steps with 3 of warm-up; 100 epochs with 5, at fractions of an epoch."""
    numbers = load("lr_schedule")

    class Optim:
        lr, min_lr, warmup_epochs = rate, 1e-6 if name == "clip_lr" else 5e-6, 3 if name == "clip_lr" else 5

    if name == "clip_lr":
        schedule = schedule_for(Optim, 20, 37, 256, composed("clip_base_300").optim.schedule)
        found = [rate * schedule(step) for step in range(20 * 37)]
        assert found == pytest.approx(numbers["clip_lr"].tolist(), rel=1e-6, abs=1e-12)
    else:
        steps = 1000
        schedule = schedule_for(Optim, 100, steps, 256, composed("pixel_base_400").optim.schedule)
        found = [rate * schedule(round(float(epoch) * steps)) for epoch in numbers["pixel_epoch"]]
        assert found == pytest.approx(numbers["pixel_lr"].tolist(), rel=1e-3, abs=1e-9)


def test_what_is_decayed() -> None:
    """Feature pre-training: as by the authors' program. Pixels: all but vectors and biases."""

    class Optim:
        lr, betas, weight_decay = 1e-3, (0.9, 0.95), 0.05

    def decayed(network: torch.nn.Module, objective: str) -> dict[str, float]:
        names = {id(parameter): official_name(name) for name, parameter in network.named_parameters()}
        groups = build_adamw(network, Optim, 256, objective).param_groups
        return {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}

    pixels = decayed(MaskedPyramidAutoencoder(HiViT(32, 8, **SMALL), PyramidNeck((8, 16, 32), 16), 32, 1, 2), "pixel")
    assert pixels["absolute_pos_embed"] == pixels["mask_token"] == 0.05
    assert pixels["patch_embed.norm.weight"] == pixels["patch_embed.proj.bias"] == 0
    assert "decoder_pos_embed" not in pixels
    backbone = HiViT(32, 8, **SMALL, rel_pos="bias", init_values=0.1)
    features = decayed(FeatureDistillPretrain(backbone, PyramidNeck((8, 16, 32), 16), 6), "clip")
    groups = load_json("param_groups")["clip_pretrain_wd0.05"]
    assert features == {name: decay for name, (_, decay) in groups.items()}
