"""Every setting composes, says what it reproduces, has the recipe's numbers (section 4 of the notes), and builds."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from p2p_runs import configuration

from p2p_loc import conf
from p2p_loc.build import build_localizer, build_optimizer, schedule_for
from p2p_loc.run_folder import require_settings

FOLDER = Path(conf.__path__[0]) / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
OURS = ("bccd", "bccd_r50", "demo", "demo_boxes")
STANDARD, ADAP = [8, 16, 32, 64, 128], [4, 8, 16, 32, 64]
RG, UNIFORM = ("rg", 0.0, 0.25), ("uniform", 0.0, 0.25)

# tile of training and prediction, images a step, rate, side of the pseudo box, points, growth limit, rounds, strides
RECIPES: dict[str, tuple[Any, ...]] = {
    "tiny_person": ([640, 512], 2, 0.01, 16, UNIFORM, 1.75, 2, ADAP),
    "tiny_person_f02": ([640, 512], 2, 0.01, 16, UNIFORM, 1.75, 2, ADAP),
    "tiny_person_f06": ([640, 512], 2, 0.01, 16, UNIFORM, 1.75, 2, ADAP),
    "tiny_person_wh32": ([640, 512], 2, 0.01, 32, UNIFORM, 1.75, 2, ADAP),
    "tiny_person_wh64": ([640, 512], 2, 0.01, 64, UNIFORM, 1.75, 2, ADAP),
    "tiny_person_reppoints": ([640, 512], 8, 0.04, 16, UNIFORM, 1.75, 3, STANDARD),
    "sea_person": ([640, 640], 4, 0.01, 16, RG, 1.75, 2, ADAP),
    "visdrone": ([640, 640], 8, 0.005, 32, RG, 1.35, 2, STANDARD),
    "visdrone_boxes": ([640, 640], 8, 0.005, 32, RG, 1.35, 0, STANDARD),
    "visdrone_boxes_adap": ([640, 640], 8, 0.005, 32, RG, 1.35, 0, ADAP),
    "city_persons": ([640, 640], 8, 0.005, 32, RG, 1.35, 2, STANDARD),
    "tiny_coco": (None, 64, 0.04, 76.8, UNIFORM, 1.75, 3, ADAP),
    "tiny_coco_rg": (None, 64, 0.04, 76.8, RG, 1.75, 3, ADAP),
    "coco": (None, 128, 0.04, 64, RG, 2.0, 3, STANDARD),
    "coco_person": (None, 16, 0.005, 64, RG, 2.0, 3, STANDARD),
    "dota": ([1024, 1024], 4, 0.005, 64, RG, 2.0, 3, STANDARD),
}
PUBLISHED = {  # AP at tau 1 of the last round
    "tiny_person_f02": 0.4703,
    "tiny_person_f06": 0.4377,
    "visdrone_boxes": 0.7174,
    "visdrone_boxes_adap": 0.7140,
}


@cache
def composed(name: str) -> DictConfig:
    return configuration(f"+experiment={name}")


def comment(name: str) -> str:
    """What stands above a setting."""
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[1:end])


def test_every_setting_is_tested() -> None:
    assert {*RECIPES, *OURS, "sea_person_p2p"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_headers_and_values(name: str) -> None:
    text, config = comment(name), composed(name)
    assert re.search(rf"^ Command: p2p-train \+experiment={name}\b", text, re.MULTILINE)
    assert re.search(r"^ Hardware: .+", text, re.MULTILINE)
    assert re.search(r"^ Expect(ed)?: .+", text, re.MULTILINE)
    assert (" data.root=" in text) == (config.data.format != "generated")
    assert not OmegaConf.missing_keys(config)
    assert config.output_dir == f"outputs/{'p2p_loc_' if name in OURS else ''}{name}"
    assert config.eval_every == config.epochs
    assert dict(config.paper_metrics) == ({"AP@1": PUBLISHED[name]} if name in PUBLISHED else {})
    for value in config.paper_metrics.values():
        assert f"{100 * value:.2f}" in text
    assert require_settings(config) == "AP@1"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_of_the_authors(name: str) -> None:
    config, (tile, batch_size, lr, side, points, grow, rounds, strides) = composed(name), RECIPES[name]
    data, optim = config.data, config.optim
    assert data.eval_tile == tile
    assert data.tile == (None if name.startswith("tiny_person") else tile)  # TinyPerson's file is cut already
    assert (data.batch_size, optim.lr, list(data.pseudo_box)) == (batch_size, lr, [side, side])
    assert (data.points.dist, data.points.mu, data.points.sigma) == points
    assert data.points.masks == (name in ("tiny_coco_rg", "coco", "coco_person"))
    assert (config.rounds, config.refine.max_grow) == (rounds, grow)
    assert (list(config.model.strides), config.model.base_scale) == (strides, strides[0] / 2)
    assert (config.refine.topk, config.refine.mode, config.refine.score_thr) == (16, "weight_mean", 0.0)
    assert (optim.name, optim.momentum, optim.weight_decay, optim.grad_clip) == ("sgd", 0.9, 1e-4, None)
    assert (optim.schedule, list(optim.milestones), config.epochs) == ("multistep", [8, 11], 12)
    assert (optim.warmup_steps, optim.warmup_start) == (500, 0.001)
    assert (data.flip, data.drop_ignore, list(config.eval.taus)) == (0.5, True, [0.5, 1, 2])
    assert data.labels == ("boxes" if "boxes" in name else "points")
    assert data.fully_ratio == {"tiny_person_f02": 0.2, "tiny_person_f06": 0.6}.get(name, 0.0)
    assert list(data.classes or []) == (["person"] if name == "coco_person" else [])


def test_recipe_of_the_later_localiser() -> None:
    config = composed("sea_person_p2p")
    optim = config.optim
    assert (config.model.name, config.model.stride, config.model.nms_iou) == ("p2p", 4, 0.2)
    assert (optim.name, optim.lr, optim.grad_clip, list(optim.milestones)) == ("adam", 1e-4, 35.0, [4, 5])
    assert (config.epochs, config.rounds, config.eval.max_dets) == (6, 0, 1000)
    assert schedule_for(optim, 6, 1000)(0) == pytest.approx(1 / 3)


def test_settings_of_our_own_cut_scores() -> None:
    for name in OURS:
        assert composed(name).refine.score_thr == 0.2
    assert composed("demo_boxes").data.labels == "boxes"
    assert list(composed("bccd").data.pseudo_box) == [64, 64]


@pytest.mark.parametrize("name", ["demo", "bccd_r50", "tiny_person", "visdrone", "sea_person_p2p"])
def test_networks_and_optimizers_build(name: str) -> None:
    config = composed(name)
    with torch.device("meta"):
        network = build_localizer(config.model, 2, fresh=False)
        optimizer = build_optimizer(network, config.optim)
    assert network.num_classes == 2
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert trained == [p for p in network.parameters() if p.requires_grad]
    schedule = schedule_for(config.optim, config.epochs, 100)
    assert schedule(0) < schedule(250)
