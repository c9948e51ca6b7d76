"""Mistakes in the settings of a search: one message each, before any training."""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from if_nas_searches import DARTS, TINY, call, configuration
from omegaconf import DictConfig, OmegaConf, open_dict

from if_nas.search_build import build_search_network, check_settings
from vireo.errors import InputError
from vireo.testing import call_script


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["epohcs=3"], ["epohcs", "epochs"]),
        (["schedule.perod=3"], ["schedule.perod", "schedule.period"]),
        (["+experiment=search_cifar"], ["search_cifar", "search_cifar10"]),
        (["discretization=3"], ["discretization"]),
        (["schedule.period=0"], ["schedule.period: 0 is no whole number from 1", "or null"]),
        (
            ["space.ops=[skip,conv5]", "data.num_classes=few"],
            ["space.ops: unknown operator 'conv5'", "conv3"],
        ),
        (["data.num_classes=few"], ["data.num_classes: 'few' is no whole number"]),
    ],
)
def test_command_line(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    outcome = call(f"output_dir={tmp_path}/run", *arguments)
    message = outcome.mistake()
    for expected in words:
        assert expected in message
    assert "step 1" not in outcome.err


@cache
def composed(settings: tuple[str, ...]) -> DictConfig:
    return configuration(*settings)


def refused(settings: tuple[str, ...], changes: list[str]) -> str:
    """What a search with these changes is refused for, before it has data."""
    with open_dict(composed(settings)) as config:  # new names among the paper's metrics
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(changes))
    try:
        check_settings(config)
        build_search_network(config, 6)
    except InputError as error:
        return str(error)
    pytest.fail("accepted")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["epochs=0"], ["epochs: 0 is no whole number from 1"]),
        (["eval_every=null"], ["eval_every: None is no whole number from 1"]),
        (["seed=-1"], ["seed: -1 is no whole number from 0"]),
        (["paper_metrics=74.1"], ["paper_metrics: 74.1 is no list of numbers with names"]),
        (["paper_metrics.top1=high"], ["paper_metrics: {'top1': 'high'} is no list of numbers with names"]),
        (["compile=true", "schedule.name=random_subset"], ["compile: almost every turn has another random subset"]),
        (["compile=maybe"], ["compile: 'maybe' is neither true nor false"]),
        (["space.name=grid"], ["space.name: unknown value 'grid'", "lchain, darts"]),
        (["space.nodes=[]"], ["space.nodes: [] is no list of 3 whole numbers from 1", "write [6,6,6]"]),
        (["space.nodes=6"], ["space.nodes: 6 is no list of 3 whole numbers"]),
        (["space.nodes=[6,6]"], ["space.nodes: [6, 6] is no list of 3 whole numbers"]),
        (["space.nodes=[6,0,6]"], ["space.nodes: [6, 0, 6] is no list of 3 whole numbers from 1"]),
        (["space.length=0"], ["space.length: 0 is no whole number from 1"]),
        (["space.ops=skip"], ["space.ops: 'skip' is no list of names", "write [skip,conv3]"]),
        (["space.ops=[]"], ["space.ops: [] is no list of names"]),
        (["space.ops=[1]"], ["space.ops: [1] is no list of names"]),
        (["space.ops=[skip,skip]"], ["operators ['skip', 'skip']", "each once"]),
        (["schedule.name=random"], ["schedule.name: unknown value 'random'", "random_subset"]),
        (["schedule.period=two"], ["schedule.period: 'two' is no whole number from 1"]),
        (
            ["schedule.name=dnas", "schedule.period=3"],
            ["schedule.period: dnas has all nodes active", "leave the period"],
        ),
        (["schedule.turn=0"], ["schedule.turn: 0 is no length of a turn", "give epoch, or a number of steps"]),
        (["schedule.turn=phase"], ["schedule.turn: 'phase' is no length of a turn"]),
        (["model.width=0"], ["model.width: 0 is no whole number from 1"]),
        (["model.stem=mnist"], ["model.stem: unknown value 'mnist'", "cifar, imagenet"]),
        (["model.dense=1"], ["model.dense: 1 is neither true nor false"]),
        (
            ["model.legacy_op_indexing=true", "space.ops=[skip,conv3,avg_pool_3x3]"],
            ["legacy_op_indexing", "with 3 operators"],
        ),
        (["optim.lr=0"], ["optim.lr: 0 is no number above 0"]),
        (["optim.min_lr=0.2"], ["optim.min_lr: 0.2 is no number from 0 to 0.1"]),
        (["optim.schedule=step"], ["optim.schedule: unknown value 'step'", "linear, cosine"]),
        (["optim.momentum=1.5"], ["optim.momentum: 1.5 is no number from 0 to 1"]),
        (["optim.momentum=1"], ["optim.momentum: 1 is no number from 0 to 1, not included"]),
        (["arch_optim.momentum=1"], ["arch_optim.momentum: 1 is no number from 0 to 1"]),
        (["model.channels_last=1"], ["model.channels_last: 1 is neither true nor false"]),
        (["arch_optim.lr=-1"], ["arch_optim.lr: -1 is no number from 0"]),
        (["arch_optim.start_epoch=0.5"], ["arch_optim.start_epoch: 0.5 is no whole number"]),
        (["arch_optim.idle=rest"], ["arch_optim.idle: unknown value 'rest'", "momentum, freeze"]),
        (["arch_optim.weight_decay=null"], ["arch_optim.weight_decay: None is no number"]),
        (["discretization.edge_weight=-1"], ["discretization.edge_weight: -1 is no number from 0"]),
        (["derive.threshold=2"], ["derive.threshold: 2 is no threshold", "not including, 1"]),
        (["derive.threshold=null"], ["derive.threshold: None is no threshold"]),
        (["derive.op_threshold=-0.1"], ["derive.op_threshold: -0.1 is no threshold"]),
        (["derive.keep=0"], ["derive.keep: 0 is no whole number from 1", "or null"]),
    ],
)
def test_settings(arguments: list[str], words: list[str]) -> None:
    message = refused(tuple(TINY), arguments)
    for expected in words:
        assert expected in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["space.nodes=[2,2,2]"], ["space.nodes: [2, 2, 2] is no whole number from 1"]),
        (["space.ops=[none]"], ["name at least one operator beside none"]),
        (["space.ops=[none,conv3]"], ["space.ops: unknown operator 'conv3'"]),
        (["model.cells=2"], ["model.cells: 2 is no whole number from 3"]),
        (["model.width=1"], ["width"]),
        (["derive.keep=1"], ["derive.keep: 1 inputs of a node, but nodes of a cell keep 2"]),
    ],
)
def test_settings_of_cells(arguments: list[str], words: list[str]) -> None:
    message = refused(tuple(DARTS), arguments)
    for expected in words:
        assert expected in message


def test_data_without_a_folder(tmp_path: Path) -> None:
    message = call(f"output_dir={tmp_path}/run", "+experiment=search_cifar10", settings=[]).mistake()
    assert "data.root: has no value" in message


def test_settings_of_a_training(tmp_path: Path) -> None:
    message = call(f"output_dir={tmp_path}/run", "+genotype=if_l8", settings=TINY).mistake()
    assert "these are the settings of if-nas-train" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run=nowhere"], ["nowhere: holds no config.yaml", "if-nas-search"]),
        (["run=3"], ["run: 3 is no text"]),
        (["run=null"], ["run: None is no text"]),
        (["weights=[a]"], ["weights: ['a'] is no text"]),
        (["out=5"], ["out: 5 is no text"]),
        (["data.classes_file=3"], ["data.classes_file: 3 is no text"]),
        (["count=0"], ["count: 0 is no whole number from 1"]),
        (["bn_images=1"], ["bn_images: 1 is no whole number from 2"]),
        (["seed=-1"], ["seed: -1 is no whole number"]),
        (["standalone=outputs/a"], ["standalone: 'outputs/a' is no list of names"]),
        (["standalone=[outputs/a]"], ["outputs/a", "cannot be read", "if-nas-train writes it"]),
        (["subnets=[]"], ["subnets: [] is no list of names"]),
        (["subnets=3"], ["subnets: 3 is no list of names"]),
        (["conut=3"], ["conut", "count"]),
    ],
)
def test_settings_of_a_ranking(arguments: list[str], words: list[str]) -> None:
    message = call_script("if_nas.rank", *arguments).mistake()
    for expected in words:
        assert expected in message


@pytest.mark.parametrize("script", ["search", "rank"])
def test_help_is_quick_and_shows_commands(script: str) -> None:
    code = (
        f"import sys; sys.argv = ['if-nas-{script}', '--help']\n"
        f"from if_nas.{script} import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert f"if-nas-{script} " in done.stdout
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 4.0  # not the time others take
