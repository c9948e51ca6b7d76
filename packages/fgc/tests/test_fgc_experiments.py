"""Every published setting composes, says what it reproduces, has the recipe's numbers, and builds its network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from fgc_command_line import call
from fgc_golden import load_json
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from fgc import conf
from fgc.blocks import gated_blocks
from fgc.build import build_network, build_objective, build_optimizer
from fgc.gate import gates_of
from fgc.schedules import Recipe
from vireo.engine import build_schedule, plain

FOLDER = Path(conf.__path__[0]) / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PUBLISHED = sorted(
    f"{network}{stage}"
    for network in [
        *(f"{data}_resnet{depth}" for data in ("cifar10", "cifar100") for depth in (20, 32, 56)),
        *(f"imagenet_resnet{depth}" for depth in (18, 34)),
    ]
    for stage in ("", "_bas", "_fgc")
)
OTHER = ["cifar10_small", "demo"]

# by data: epochs, of which batch shaping, milestones, gamma, weight decay, batch size, neighbours, classes
RECIPES = {
    "cifar10": (500, 100, [300, 375, 450], 0.1, 5e-4, 256, 200, 10),
    "cifar100": (200, 40, [60, 120, 160], 0.2, 5e-4, 128, 200, 100),
    "imagenet": (130, 26, [40, 70, 100], 0.1, 1e-4, 256, 1000, 1000),
}
BLOCKS = {"resnet20": 9, "resnet32": 15, "resnet56": 27, "resnet18": 8, "resnet34": 16}


@cache
def composed(name: str) -> DictConfig:
    with initialize_config_module("fgc.conf", version_base="1.3"):
        return compose("train", [f"+experiment={name}", "data.root=/data"])


def parts(name: str) -> tuple[str, str, str]:
    """Data, network and stage of a published setting."""
    data, network, *stage = name.split("_")
    return data, network, stage[0] if stage else "both"


def comment(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    return "\n".join(line.removeprefix("#") for line in lines[1:] if line.startswith("#"))


def test_every_setting_has_its_file() -> None:
    assert sorted([*PUBLISHED, *OTHER]) == NAMES


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe(name: str) -> None:
    """Section 4."""
    config, (data, _, stage) = composed(name), parts(name)
    epochs, shaping, milestones, gamma, weight_decay, batch_size, neighbors, _ = RECIPES[data]
    assert config.stage == stage
    assert config.epochs == (epochs - shaping if stage == "fgc" else epochs)
    assert config.start_epoch is None
    optim = config.optim
    assert (optim.lr, optim.momentum, optim.schedule) == (0.1, 0.9, "multistep")
    assert (optim.weight_decay, optim.gamma, list(optim.milestones)) == (weight_decay, gamma, milestones)
    recipe = config.recipe
    assert (recipe.zeta, recipe.rho, recipe.kappa) == (0.75, 0.4, 0.003)
    assert (recipe.shaping_epochs, recipe.rho_epochs) == (shaping, 2 * shaping)
    coupling = config.coupling
    assert (coupling.num_neighbors, coupling.temperature, coupling.momentum) == (neighbors, 0.07, 0.5)
    assert (coupling.warmup_epochs, coupling.blocks) == (20, None)
    assert (coupling.normalize_query, coupling.random_neighbors) == (False, False)
    assert coupling.bank_dtype == ("bfloat16" if data == "imagenet" else "float32")
    assert config.controller.target_pruning is None
    assert config.data.batch_size == batch_size
    assert (config.run.ema_decay, config.run.grad_clip, config.run.accumulate) == (None, None, 1)
    assert config.run.precision == ("bf16-mixed" if data == "imagenet" else "32-true")
    assert config.output_dir == f"outputs/{name}"
    assert config.init is None
    assert not config.paper_metrics  # none that could be checked


@pytest.mark.parametrize("name", PUBLISHED)
def test_data(name: str) -> None:
    config, (data, _, _) = composed(name), parts(name)
    assert list(config.image_size) == ([224, 224] if data == "imagenet" else [32, 32])
    if data == "imagenet":
        assert (config.data.format, config.data.crop_size, config.data.resident) == ("folder", 224, False)
        assert list(config.data.mean) == pytest.approx([255 * m for m in (0.485, 0.456, 0.406)])
        assert list(config.data.std) == pytest.approx([255 * s for s in (0.229, 0.224, 0.225)])
    else:
        assert (config.data.format, config.data.kind, config.data.resident) == (
            "cifar",
            f"cifar-{data[5:]}",
            True,
        )
        assert (config.data.crop_padding, config.data.flip, config.data.drop_last) == (4, 0.5, False)
        assert list(config.data.mean) == pytest.approx([255 * m for m in (0.4914, 0.4822, 0.4465)])
        assert list(config.data.std) == pytest.approx([255 * s for s in (0.2023, 0.1994, 0.2010)])


@pytest.mark.parametrize("stage", ["bas", "fgc", "both"])
def test_cifar10_follows_the_authors_programs(stage: str) -> None:
    """``schedules.json`` through the configuration, from the epoch of the run to learning rate and loss weights."""
    config = composed("cifar10_resnet20" + ("" if stage == "both" else f"_{stage}"))
    recipe = Recipe(config.stage, **plain(config.recipe))
    milestones = [epoch - recipe.first_epoch for epoch in config.optim.milestones]
    schedule = build_schedule("multistep", epochs=config.epochs, steps_per_epoch=196, milestones=milestones, gamma=0.1)
    golden = load_json("schedules")
    bas = [row for row in golden["bas"] if stage == "bas" or (stage == "both" and row[0] < 100)]
    fgc = [row for row in golden["fgc"] if stage != "bas"]
    for epoch, lr, zeta, rho in bas:
        weights = recipe.weights(epoch)
        assert (weights.zeta, weights.rho, weights.kappa) == pytest.approx((zeta, rho, 0.0))
        assert config.optim.lr * schedule(196 * (epoch - recipe.first_epoch)) == pytest.approx(lr)
    for epoch, lr, kappa, rho, coupling_epoch, uses_neighbours in fgc:
        weights = recipe.weights(epoch)
        assert (weights.zeta, weights.rho, weights.kappa) == pytest.approx((0.0, rho, kappa))
        assert weights.coupling_epoch == coupling_epoch
        assert (coupling_epoch > config.coupling.warmup_epochs) == bool(uses_neighbours)
        assert config.optim.lr * schedule(196 * (epoch - recipe.first_epoch)) == pytest.approx(lr)
    assert max(row[0] for row in [*bas, *fgc]) == recipe.first_epoch + config.epochs - 1


@pytest.fixture(scope="module", autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PUBLISHED)
def test_network_and_objective(name: str) -> None:
    config, (data, network_name, stage) = composed(name).copy(), parts(name)
    config.image_size = [32, 32]
    classes = RECIPES[data][-1]
    network = build_network(config.model, classes)
    blocks = gated_blocks(network)
    assert len(blocks) == BLOCKS[network_name]
    assert all(gate.mlp["fc1"].out_channels == 16 for gate in gates_of(network))
    recipe = Recipe(config.stage, **plain(config.recipe))
    objective = build_objective(network, recipe, config, 30)
    coupled = [] if stage == "bas" else [str(len(blocks) - 2), str(len(blocks) - 1)]
    assert list(objective.couplings) == coupled
    assert objective.controller is None
    gates, rest = build_optimizer(network, config.optim).param_groups
    assert (gates["weight_decay"], rest["weight_decay"]) == (0.0, config.optim.weight_decay)
    assert gates["nesterov"]
    assert len(gates["params"]) == 5 * len(blocks)
    assert len(gates["params"]) + len(rest["params"]) == len(list(network.parameters()))
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, classes)


@pytest.mark.parametrize("name", NAMES)
def test_comment_names_command_hardware_and_what_to_expect(name: str) -> None:
    text = comment(name)
    commands = re.findall(r"fgc-train (.*)", text)
    assert commands
    for command in commands:
        experiment = re.search(r"\+experiment=(\S+)", command)
        if experiment:
            assert experiment[1] in NAMES
    assert any(f"+experiment={name} " in f"{command} " for command in commands)
    assert re.search(r"^ Hardware: \S", text, re.MULTILINE)
    assert re.search(r"^ Expect(ed)?: \S", text, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_the_comment_compose(name: str) -> None:
    for command in re.findall(r"fgc-train (\+.*)", comment(name)):
        overrides = re.split(r"\s+#|\s{2,}", command)[0].split()
        with initialize_config_module("fgc.conf", version_base="1.3"):
            config = compose("train", overrides)
        recipe = Recipe(config.stage, **plain(config.recipe))
        assert (config.init is not None) == (config.stage == "fgc")
        if config.stage == "bas" and "epochs=" in command:  # the first stage, for the second to start from
            assert config.epochs == recipe.shaping_epochs
            assert config.output_dir.startswith("outputs/")
            assert f"init={config.output_dir}" in comment(name)


def test_unknown_experiment_is_answered_with_the_nearest(tmp_path: Path) -> None:
    message = call("train", "+experiment=cifar10_resnet21", f"output_dir={tmp_path}/run").mistake()
    assert "cifar10_resnet20" in message
    message = call("train", "experiment=cifar10_resnet20", f"output_dir={tmp_path}/run").mistake()
    assert "write +experiment=cifar10_resnet20" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["cifar10_resnet20", "cifar100_resnet56_bas", "imagenet_resnet18"])
def test_documented_command_asks_for_the_data_folder(tmp_path: Path, name: str) -> None:
    arguments = [f"+experiment={name}", f"output_dir={tmp_path}/run", "run.precision=32-true"]
    assert "data.root: has no value" in call("train", *arguments).mistake()
    assert "/nowhere" in call("train", *arguments, "data.root=/nowhere").mistake()
