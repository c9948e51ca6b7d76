"""Every setting of a search composes, says what it reproduces, has the recipe's numbers (section 4), and builds."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from if_nas_searches import configuration
from omegaconf import DictConfig

from if_nas import conf
from if_nas.schedule import InterleavingFreeSchedule
from if_nas.search_build import (
    build_node_schedule,
    build_optimizer,
    build_search_network,
    check_settings,
    penalty_weights,
)
from if_nas.supernet import LChainSupernet

FOLDER = Path(conf.__path__[0]) / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("search_*.yaml"))
PUBLISHED = [f"search_imagenet100_l{length}" for length in (4, 6, 8)]
CPU = ["search_demo", "search_cifar10_small"]
EDGES = {4: 206, 6: 291, 8: 364}  # section 6
PARAMS = {4: 0.954e6, 6: 1.322e6, 8: 1.637e6}
NODES = {4: 46, 6: 40, 8: 40}  # of the networks found, less 2


@cache
def composed(name: str) -> DictConfig:
    return configuration(f"+experiment={name}", "data.root=/data" if "demo" not in name else "seed=0")


def comment(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[1:end])


def test_every_setting_is_known() -> None:
    assert sorted([*PUBLISHED, *CPU, "search_cifar10", "search_darts"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_headers(name: str) -> None:
    text = comment(name)
    assert re.search(rf"^ Commands: if-nas-search \+experiment={name}\b", text, re.MULTILINE)
    assert re.search(r"^ Hardware: .+", text, re.MULTILINE)
    assert re.search(r"^ Expect: .+", text, re.MULTILINE)
    assert composed(name).output_dir == f"outputs/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_accepted_and_build(name: str) -> None:
    config = composed(name)
    check_settings(config)
    with torch.device("meta"):
        network = build_search_network(config, 10)
    schedule = build_node_schedule(config.schedule, network, 0)
    assert isinstance(schedule, InterleavingFreeSchedule)
    groups = build_optimizer(network, config).param_groups
    assert [group.get("clip", True) for group in groups] == [True, False]
    assert config.run.grad_clip == 5


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipe(name: str) -> None:
    config, length = composed(name), int(name[-1])
    assert (list(config.space.nodes), config.space.length) == ([18, 20, 18], length)
    assert list(config.space.ops) == ["skip", "conv3"]
    assert (config.model.width, config.model.stem) == (16, "imagenet")
    assert (config.epochs, config.data.batch_size, list(config.data.image_size)) == (100, 256, [224, 224])
    assert list(config.data.color_jitter) == [0.4, 0.4, 0.4, 0.2]
    optim, arch = config.optim, config.arch_optim
    assert (optim.lr, optim.momentum, optim.weight_decay, optim.schedule, optim.min_lr) == (0.1, 0.9, 3e-5, "linear", 0)
    assert (arch.lr, arch.momentum, arch.weight_decay, arch.start_epoch) == (0.1, 0.9, 3e-5, 50)
    assert (arch.idle, config.schedule.turn, config.schedule.period) == ("momentum", "epoch", None)
    assert penalty_weights(config.discretization, 65) == (0, 0)
    assert penalty_weights(config.discretization, 99) == pytest.approx((0.01417, 0.01889), rel=1e-3)  # section 3.5
    assert (config.derive.threshold, config.derive.keep) == (0.1, None)
    assert dict(config.paper_metrics) == {}  # the figure's "depth" counts nodes, ours is the longest path
    assert f"nodes - 2 of the network: {NODES[length]} " in comment(name)
    with torch.device("meta"):
        network = build_search_network(config, 100)
    assert isinstance(network, LChainSupernet)
    assert len(network.arch.counts) == 56
    assert network.space.num_edges == EDGES[length]
    params = sum(parameter.numel() for parameter in network.weight_parameters())
    assert params == pytest.approx(PARAMS[length], rel=1e-3)


@pytest.mark.parametrize("name", CPU)
def test_cpu_setting(name: str) -> None:
    """Section 10: three times the paper's last penalties."""
    config = composed(name)
    assert (list(config.space.nodes), config.space.length, config.model.width) == ([6, 6, 6], 4, 8)
    assert (list(config.data.image_size), config.data.batch_size, config.epochs) == ([16, 16], 64, 30)
    assert (config.arch_optim.start_epoch, config.discretization.start_epoch) == (12, 18)
    assert penalty_weights(config.discretization, 29) == pytest.approx((3 * 0.01417, 3 * 0.01889), rel=5e-3)
    assert config.derive.keep == 1
    assert config.schedule.name == "interleaving_free"


def test_gpu_setting() -> None:
    """Section 10: the architecture from half of the epochs on, the penalties from 0.65."""
    config = composed("search_cifar10")
    assert (list(config.space.nodes), config.space.length, config.model.width) == ([8, 8, 8], 4, 16)
    assert (list(config.data.image_size), config.data.batch_size, config.epochs) == ([32, 32], 256, 30)
    assert (config.arch_optim.start_epoch, config.discretization.start_epoch) == (15, 19)
    assert penalty_weights(config.discretization, 29) == pytest.approx((3 * 0.01417, 3 * 0.01889), rel=5e-3)


def test_cells() -> None:
    """The DARTS family's recipe of the network (section 4)."""
    config = composed("search_darts")
    assert (config.space.name, config.space.nodes, config.model.width, config.model.cells) == ("darts", 4, 16, 8)
    optim = config.optim
    assert (optim.lr, optim.min_lr, optim.schedule, optim.weight_decay) == (0.025, 0.001, "cosine", 3e-4)
    assert (config.epochs, config.data.batch_size, config.derive.keep) == (50, 64, None)
