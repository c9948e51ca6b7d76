"""Every experiment of ``if-nas-train`` composes, has its recipe's numbers, builds its network, says what to expect."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from if_nas_runs import call
from omegaconf import DictConfig, OmegaConf

from if_nas import conf
from if_nas.build import check_settings, network_cost, network_width
from if_nas.learning_rates import epoch_schedule
from if_nas.published import find_architecture

FOLDER = Path(conf.__path__[0]) / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("search_"))
IMAGENET = ["imagenet_l4", "imagenet_l4_dnas", "imagenet_l6", "imagenet_l8", "imagenet_l8_dnas"]
SMALL = ["cifar10_gpu", "cifar10_small", "demo"]


@cache
def composed(name: str) -> DictConfig:
    with initialize_config_module("if_nas.conf", version_base="1.3"):
        return compose("train", [f"+experiment={name}"])


def comment(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    return "\n".join(line.removeprefix("#") for line in lines[1:] if line.startswith("#"))


def test_every_setting_has_its_file() -> None:
    assert sorted([*IMAGENET, *SMALL, "cifar10", "cifar10_darts", "imagenet100", "imagenet_darts"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_sound(name: str) -> None:
    config = composed(name)
    check_settings(config)
    assert config.output_dir == f"outputs/{name}"
    assert not OmegaConf.missing_keys(config)
    assert config.data.get("root") is None
    assert config.run.grad_clip == 5
    assert config.optim.momentum == 0.9
    assert config.run.precision == "32-true"


@pytest.mark.parametrize("name", IMAGENET)
def test_recipe_of_imagenet(name: str) -> None:
    """Section 4, third column."""
    config = composed(name)
    assert (config.epochs, config.data.batch_size, config.data.crop_size) == (250, 1024, 224)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.schedule) == (0.5, 3e-5, "cosine")
    assert (config.optim.min_lr, config.optim.warmup_epochs) == (1e-4, 5)
    assert (config.label_smoothing, config.model.auxiliary, config.auxiliary_weight) == (0.1, True, 0.4)
    assert (config.model.variant, config.model.drop_path, config.data.classes_file) == ("imagenet", 0, None)
    assert (config.model.width, config.model.max_macs) == (None, 600e6)
    assert find_architecture(config.genotype)
    assert list(config.data.color_jitter) == [0.4, 0.4, 0.4, 0.2]


def test_recipe_of_imagenet100() -> None:
    """Section 4, second column."""
    config = composed("imagenet100")
    assert (config.epochs, config.data.batch_size, config.model.width) == (200, 256, 32)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.schedule) == (0.1, 3e-5, "cosine")
    assert (config.optim.min_lr, config.optim.warmup_epochs) == (0, 0)
    assert (config.label_smoothing, config.model.auxiliary, config.model.variant) == (0.1, False, "imagenet")
    assert (config.genotype, config.data.classes_file) == ("geno_cosine_similarity2", "imagenet100.txt")


def test_recipe_of_cells_on_imagenet() -> None:
    """Section 4, the DARTS family."""
    config = composed("imagenet_darts")
    assert (config.epochs, config.model.width, config.model.max_macs, config.model.cells) == (250, 48, None, 14)
    assert (config.label_smoothing, config.model.auxiliary, config.auxiliary_weight) == (0.1, True, 0.4)
    assert (config.optim.weight_decay, config.model.variant, config.run.grad_clip) == (3e-5, "imagenet", 5)


@pytest.mark.parametrize("name", ["cifar10", "cifar10_darts"])
def test_recipe_of_cifar10(name: str) -> None:
    """Section 4, the DARTS family."""
    config = composed(name)
    assert (config.epochs, config.data.batch_size, config.model.width) == (600, 96, 36)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.schedule) == (0.025, 3e-4, "cosine")
    assert (config.data.cutout, config.data.crop_padding, config.data.flip) == (16, 4, 0.5)
    assert (config.model.auxiliary, config.auxiliary_weight, config.model.drop_path) == (True, 0.4, 0.2)
    assert config.label_smoothing == 0
    assert [mean / 255 for mean in config.data.mean] == pytest.approx([0.49139968, 0.48215827, 0.44653124], abs=1e-6)
    assert [std / 255 for std in config.data.std] == pytest.approx([0.24703233, 0.24348505, 0.26158768], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "width", "million_macs", "classes"),
    [
        ("imagenet_l4", 56, None, 1000),
        ("imagenet_l4_dnas", 56, None, 1000),
        ("imagenet_l6", 68, None, 1000),
        ("imagenet_l8", 56, 566.5, 1000),
        ("imagenet_l8_dnas", 62, None, 1000),
        ("imagenet_darts", 48, None, 1000),
        ("imagenet100", 32, None, 100),
        ("cifar10_darts", 36, None, 10),
    ],
)
def test_network(name: str, width: int, million_macs: float | None, classes: int) -> None:
    """The width of section 6 and of the recipes; an auxiliary head where the recipe has one."""
    config = composed(name)
    architecture, size = find_architecture(config.genotype), tuple(config.data.image_size)
    assert network_width(config.model, architecture, classes, size) == width
    cost = network_cost(config.model, architecture, classes, width, size)
    assert (cost.auxiliary_params > 0) == config.model.auxiliary
    if million_macs is not None:
        assert cost.macs / 1e6 == pytest.approx(million_macs, abs=0.06)


@pytest.mark.parametrize("name", NAMES)
def test_schedule(name: str) -> None:
    optim = composed(name).optim
    factor = epoch_schedule(
        optim.schedule, composed(name).epochs, final=optim.min_lr / optim.lr, warmup_epochs=optim.warmup_epochs
    )
    assert factor(0) == pytest.approx(1 / max(1, optim.warmup_epochs))
    assert 0 < factor(composed(name).epochs - 1) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_comment_names_command_hardware_and_what_to_expect(name: str) -> None:
    text = comment(name)
    assert any(f"+experiment={name} " in f"{command} " for command in re.findall(r"if-nas-train (.*)", text))
    assert re.search(r"^ Hardware: \S", text, re.MULTILINE)
    assert re.search(r"^ Expected: \S", text, re.MULTILINE)
    for command in re.findall(r"if-nas-train (\+.*)", text):
        with initialize_config_module("if_nas.conf", version_base="1.3"):
            check_settings(compose("train", command.split()))


def test_the_width_of_the_authors_script() -> None:
    with initialize_config_module("if_nas.conf", version_base="1.3"):
        config = compose("train", ["+experiment=imagenet_l8", "model.max_macs=null", "model.width=64"])
    check_settings(config)
    assert network_width(config.model, find_architecture("if_l8"), 1000, (224, 224)) == 64


def test_class_folders_in_place_of_the_published_files() -> None:
    with initialize_config_module("if_nas.conf", version_base="1.3"):
        config = compose("train", ["+experiment=cifar10", "data=folder"])
    assert (config.data.format, config.data.batch_size, config.data.cutout) == ("folder", 96, 16)


def test_experiments_of_the_search_are_refused(tmp_path: Path) -> None:
    message = call("train", "+experiment=search_demo", f"output_dir={tmp_path}/run").mistake()
    assert "made for the configuration of another script" in message


def test_unknown_experiment_is_answered_with_the_nearest(tmp_path: Path) -> None:
    assert "imagenet_l8" in call("train", "+experiment=imagenet_l9", f"output_dir={tmp_path}/run").mistake()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["cifar10", "imagenet_l8"])
def test_documented_command_asks_for_the_data_folder(tmp_path: Path, name: str) -> None:
    arguments = [f"+experiment={name}", f"output_dir={tmp_path}/run"]
    assert "data.root: has no value" in call("train", *arguments).mistake()
    assert "/nowhere" in call("train", *arguments, "data.root=/nowhere").mistake()
