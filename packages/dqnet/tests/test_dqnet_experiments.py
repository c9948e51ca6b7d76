"""Every setting composes, says what it reproduces, has the recipe's numbers (section 4 of the notes), and builds."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from dqnet_runs import configuration
from omegaconf import DictConfig, OmegaConf

from dqnet import DQnet, RelationBasedQuery, conf
from dqnet.build import build_network, build_optimizer
from dqnet.model import ARMS
from vireo.engine import plain

FOLDER = Path(conf.__path__[0]) / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SMALL = ("demo", "demo_resnet", "demo_vit", "sod", "sod_vit")
# what each ablation changes in the published setting, beside where it is written
ABLATIONS: dict[str, dict[str, Any]] = {
    "cod": {},
    "cod_sum": {"model.arm": "sum"},
    "cod_concat": {"model.arm": "concat"},
    "cod_vit": {"model.arm": "vit", "init.resnet": None},
    "cod_resnet": {"model.arm": "resnet", "init.vit": None},
    "cod_global": {"model.window": None},
    "cod_window8": {"model.window": 8},
    "cod_window12": {"model.window": 12},
    "cod_masked_padding": {"model.mask_padding": True},
    "cod_weighted_bce": {"loss.bce": "weighted"},
    "cod_small": {"model.vit.name": "vit_small_patch16", "init.vit": None},
}
# the paper's S, weighted F, MAE and E
PAPER = {
    "CAMO": (0.898, 0.898, 0.034, 0.944),
    "CHAMELEON": (0.915, 0.866, 0.021, 0.960),
    "COD10K": (0.882, 0.801, 0.021, 0.930),
    "NC4K": (0.901, 0.859, 0.029, 0.942),
}


def comment(name: str) -> str:
    """What stands above a setting."""
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[1:end])


@cache
def composed(name: str) -> DictConfig:
    return configuration(f"+experiment={name}")


def flat(name: str) -> dict[str, Any]:
    """A setting's values by their full keys."""

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix: node}
        return {key: value for k, v in node.items() for key, value in walk(v, f"{prefix}.{k}".lstrip(".")).items()}

    return walk(plain(composed(name)), "")


def on_meta(name: str) -> DQnet:
    with torch.device("meta"):
        return build_network(composed(name))


@pytest.mark.parametrize("name", NAMES)
def test_headers(name: str) -> None:
    text = comment(name)
    assert re.search(rf"^   dqnet-train \+experiment={name}\b", text, re.MULTILINE)
    assert re.search(r"^ Hardware: .+; time: .+\.$", text, re.MULTILINE)
    assert re.search(r"^ Expected: .+", text, re.MULTILINE)
    assert composed(name).output_dir == f"outputs/{name}"
    assert not re.search("TIME|TODO", text)
    if composed(name).data.format != "camouflage":
        assert " data.root=" in text


def test_every_setting_is_tested() -> None:
    assert {*ABLATIONS, *SMALL} == set(NAMES)
    assert {composed(name).model.arm for name in ABLATIONS} == set(ARMS)


@pytest.mark.parametrize("name", NAMES)
def test_no_setting_leaves_out_a_value(name: str) -> None:
    assert not OmegaConf.missing_keys(composed(name))


def test_published_recipe() -> None:
    config = composed("cod")
    optim, data = config.optim, config.data
    assert config.epochs * (4040 // data.batch_size) == 4040
    assert (data.batch_size, config.model.image_size, config.run.accumulate) == (40, 384, 1)
    assert (optim.lr, optim.vit_lr, optim.layer_decay) == (5e-4, 1e-4, 0.75)
    assert (optim.weight_decay, optim.vit_weight_decay, list(optim.betas)) == (0.1, 0.0, [0.9, 0.999])
    assert (optim.freeze_vit_norm, optim.decay_vectors) == (True, True)
    assert (config.schedule.power, config.schedule.min, config.schedule.warmup_steps) == (0.9, 0.001, 0)
    assert (config.run.grad_clip, config.run.ema_decay, config.sync_bn) == (None, None, False)
    assert (data.flip, data.vertical_flip, data.rotate.p, data.rotate.limit) == (0.5, 0.0, 0.5, 10)
    assert (config.loss.bce, config.model.vit.drop_path_rate) == ("mean", 0.1)
    assert (config.init.vit, data.format) == ("mae_pretrain_vit_base.pth", "cod")
    assert re.search(r"mixed", config.run.precision)


def test_published_network() -> None:
    """Section 6.3; the groups are compared with the authors' in ``test_dqnet_groups``."""
    model = on_meta("cod")
    assert sum(p.numel() for p in model.parameters()) == 127_667_649
    assert model.vit is not None
    assert model.resnet is not None
    assert model.vit.grid_size == (24, 24)
    assert model.resnet.strides == (4, 8, 16, 32)
    optimizer = build_optimizer(model, composed("cod").optim, fused=False)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == 127_667_649 - 2 * 768


def test_the_papers_numbers() -> None:
    """All four sets are named; the report shows those of the set that a run evaluates."""
    text = comment("cod")
    for name, row in PAPER.items():
        assert " ".join([name, *(f"{value:.3f}".lstrip("0") for value in row)]) in text
    expected = dict(zip(("Smeasure", "wFmeasure", "MAE"), PAPER[composed("cod").data.test_set]))
    assert plain(composed("cod").paper_metrics) == expected
    assert all(not composed(name).paper_metrics for name in NAMES if name != "cod")


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_its_name_says(name: str) -> None:
    own, published = flat(name), flat("cod")
    ignored = ("output_dir", "paper_metrics")
    changed = {key: own[key] for key in own if own[key] != published.get(key) and not key.startswith(ignored)}
    assert changed == ABLATIONS[name]
    model = on_meta(name)
    assert (model.arm, model.head is not None) == (own["model.arm"], True)
    for branch, path in plain(composed(name).init).items():  # nothing is loaded that the arm does not have
        assert path is None or getattr(model, branch) is not None


def test_windows() -> None:
    sides = {}
    for name in ("cod", "cod_global", "cod_window8", "cod_window12"):
        queries = [part for part in on_meta(name).modules() if isinstance(part, RelationBasedQuery)]
        sides[name] = [query.window for query in queries]
    assert sides == {"cod": [10] * 4, "cod_global": [24] * 4, "cod_window8": [8] * 4, "cod_window12": [12] * 4}


def test_the_demo_is_that_of_the_notes() -> None:
    """Section 10, but for the transformer's initialisation and the length of both stages."""
    config = composed("demo")
    data, optim, model = config.data, config.optim, config.model
    assert (data.train_images, data.val_images, data.image_size, data.batch_size) == (480, 96, 64, 12)
    assert (data.flip, data.vertical_flip, data.rotate.p) == (0.5, 0.5, 0)
    assert (optim.lr, optim.vit_lr, optim.weight_decay, optim.layer_decay) == (1e-3, 3e-4, 0.05, 1)
    assert (config.schedule.power, config.schedule.warmup_steps, optim.freeze_vit_norm) == (0.9, 20, False)
    assert (model.window, model.heads, model.head_width, model.resnet.width) == (4, 4, 48, 16)
    assert composed("demo_vit").optim.vit_lr == 1e-3
    first, second, alone = (composed(name).epochs for name in ("demo_vit", "demo", "demo_resnet"))
    assert alone == first + second  # as many steps as the others in both stages


@pytest.mark.parametrize(("arm", "millions"), [("vit", 0.50), ("resnet", 0.62), ("concat", 1.11), ("gate", 1.43)])
def test_sizes_of_the_demo(arm: str, millions: float) -> None:
    config = OmegaConf.merge(composed("demo"), {"model": {"arm": arm}})
    with torch.device("meta"):
        model = build_network(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("group", ["demo", "sod"])
def test_stages_fit_each_other(group: str) -> None:
    """The second stage's transformer is the first's."""
    first, second = composed(f"{group}_vit"), composed(group)
    assert (first.model.arm, second.model.arm) == ("vit", "gate")
    assert {**plain(first.model), "arm": None} == {**plain(second.model), "arm": None}
    assert plain(first.data) == plain(second.data)
    assert f"init.vit={first.output_dir}" in comment(group)
