"""Every published setting composes, says what it reproduces, has the recipe's numbers, and builds its network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from ssd_det import conf
from ssd_det.build import build_model
from ssd_det.noise import _parser as noise_parser
from ssd_det.oamil import OAMILDet

FOLDER = Path(conf.__path__[0]) / "experiment"
NAMES = sorted(path.stem for pattern in ("coco_*", "voc07_*") for path in FOLDER.glob(f"{pattern}.yaml"))
WIDE, LOW = ([1.0, 1.2, 1.3, 0.8, 0.7], [0.2]), ([1.0, 1.1, 0.9], [0.1])

# AP of COCO val (Tables 1, 3, 4 and 5), AP50 of VOC07 test (Table 2); None: not in the paper
PUBLISHED: dict[str, float | None] = {
    "coco_r50_noise20": 33.6,
    "coco_r50_noise40": 27.6,
    "coco_r101_noise20": 34.3,
    "coco_r101_noise40": 28.4,
    "coco_r50_clean": None,
    "coco_r50_clean_plain": 37.9,
    "coco_r101_clean_plain": 39.4,
    "coco_r50_noise20_plain": 30.4,
    "coco_r50_noise40_plain": 10.3,
    "coco_r50_clean_same_neck": None,
    "coco_r50_noise20_same_neck": None,
    "coco_r50_noise40_same_neck": None,
    "coco_r50_noise20_oa_mil": 32.1,
    "coco_r50_noise40_oa_mil": 18.6,
    "coco_r50_noise20_one_stage": 30.0,
    "coco_r50_noise40_one_stage": 22.8,
    "coco_r50_noise20_basic": 31.2,
    "coco_r50_noise40_basic": 24.6,
    "coco_r50_noise20_spsd": 33.0,
    "coco_r50_noise40_spsd": 27.2,
    "coco_r50_noise40_spsd_second_unweighted": 26.0,
    "coco_r50_noise40_spsd_second": 26.3,
    "coco_r50_noise40_sisd_no_relevance": 27.3,
    "coco_r50_noise40_sisd_subtract": 27.2,
    "coco_r50_noise40_sisd_concat": 27.2,
    "coco_r50_noise40_sisd_shared": 23.0,
    "coco_r50_noise20_retrain": 34.4,
    "coco_r50_noise40_retrain": 29.3,
    "coco_r101_noise20_retrain": 36.2,
    "coco_r101_noise40_retrain": 30.6,
    "coco_r50_noise20_basic_retrain": 31.8,
    "coco_r50_noise40_basic_retrain": 26.5,
    "coco_r50_noise20_spsd_retrain": 34.1,
    "coco_r50_noise40_spsd_retrain": 29.0,
    "voc07_r50_noise10": 77.1,
    "voc07_r50_noise20": 74.8,
    "voc07_r50_noise30": 71.5,
    "voc07_r50_noise40": 66.9,
    "voc07_r50_clean_plain": 77.2,
    "voc07_r50_noise10_plain": 76.3,
    "voc07_r50_noise20_plain": 71.2,
    "voc07_r50_noise30_plain": 60.1,
    "voc07_r50_noise40_plain": 42.5,
    "voc07_r50_noise10_oa_mil": 77.4,
    "voc07_r50_noise20_oa_mil": 74.3,
    "voc07_r50_noise30_oa_mil": 70.6,
    "voc07_r50_noise40_oa_mil": 63.8,
}


@cache
def composed(name: str) -> DictConfig:
    with initialize_config_module("ssd_det.conf", version_base="1.3"):
        return compose("train", [f"+experiment={name}", "data.root=/data/coco"])


def is_plain(name: str) -> bool:
    """Whether the setting is that of the published baselines rather than of SSD-Det."""
    return name.endswith(("plain", "oa_mil", "retrain"))


def test_every_published_setting_has_its_file() -> None:
    assert sorted(PUBLISHED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_recipe(name: str) -> None:
    config, coco = composed(name), name.startswith("coco")
    data, optim = config.data, config.optim
    assert (data.format, data.noise, data.flip) == ("coco" if coco else "voc", 0, 0.5)
    assert (data.short_side, data.long_side) == ((800, 1333) if coco else (600, 1000))
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (optim.schedule, optim.warmup_steps, config.epochs) == ("multistep", 500, 12)
    assert (data.batch_size, optim.lr) == ((16, 0.02) if coco or is_plain(name) else (4, 0.002))
    assert list(optim.milestones) == ([9, 11] if re.match(r"coco_r101_noise\d+$", name) else [8, 11])
    assert optim.grad_clip == (None if is_plain(name) else 10.0)
    assert config.eval_every == (1 if coco or is_plain(name) else 3)
    assert (config.run.precision, config.run.ema_decay, config.run.accumulate) == ("32-true", None, 1)
    assert config.output_dir == f"outputs/{name}"
    assert (data.batch_size % 16 == 0) == (data.batch_size * 0.00125 == optim.lr)


@pytest.mark.parametrize("name", NAMES)
def test_training_boxes(name: str) -> None:
    data = composed(name).data
    noise = re.search(r"noise(\d+)", name)
    if name.startswith("voc"):
        assert data.train_annotations == (f"voc07_trainval_noise{noise[1]}.json" if noise else None)
        assert (data.train_split, data.val_split) == ("trainval", "test")
        return
    expected = "instances_train2017"
    if noise:
        expected += f"_noise{noise[1]}"
    if name.endswith("retrain"):
        backbone, variant = re.match(r"coco_(r\d+)_noise\d+(.*)_retrain$", name).groups()  # type: ignore[union-attr]
        expected += f"_refined_{backbone}{variant}"
    assert data.train_annotations == f"annotations/{expected}.json"
    assert data.val_annotations == "annotations/instances_val2017.json"


@pytest.mark.parametrize("name", NAMES)
def test_paper_numbers(name: str) -> None:
    metrics, published = composed(name).paper_metrics, PUBLISHED[name]
    if published is None:
        assert not metrics
    else:
        assert metrics["AP" if name.startswith("coco") else "VOC_AP50"] == pytest.approx(published / 100)
    assert set(metrics) <= {"AP", "AP50", "AP75", "APs", "APm", "APl", "VOC_AP50"}
    assert all(0 < value < 1 for value in metrics.values())


@pytest.mark.parametrize("name", NAMES)
def test_comment_names_table_command_hardware_and_number(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    comment = "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    assert re.search(r"^Paper: (Table \d|not in it)", comment, re.M)
    assert f"ssd-det-train +experiment={name} data.root=" in comment
    assert re.search(r"^Hardware: .*GPU.*time", comment, re.M)
    expected = re.search(r"^Expected.*$", comment, re.M)
    assert expected
    for value in composed(name).paper_metrics.values():
        assert f"{100 * value:.1f}" in expected[0]

    train_file = composed(name).data.train_annotations
    if "noise" in name and not name.endswith("retrain"):  # the command writes the file that is trained on
        command = re.search(r"^ssd-det-noise (.*)\\\n(.*)$", comment, re.M)
        assert command
        arguments = noise_parser().parse_args((command[1] + command[2]).split())
        root = Path(re.search(r"data.root=(\S+)", comment)[1])  # type: ignore[index]
        assert Path(arguments.out) == root / train_file
        assert f"noise{round(100 * arguments.level)}" in name
        assert arguments.seed == 45
    if name.endswith("retrain"):
        first = name.removesuffix("_retrain")
        assert first in NAMES
        assert f"run={composed(first).output_dir} " in comment
        assert f"out=/data/coco/{train_file}" in comment


EXPECTED: dict[str, Callable[[Any], bool]] = {
    "full": lambda r: r.spsd and r.sisd and r.spsd_first and r.object_relevance == "add" and not r.share_sisd_mlp,
    "one_stage": lambda r: r.stages == 1 and not r.spsd,
    "basic": lambda r: r.stages == 2 and not r.spsd and not r.sisd,
    "spsd": lambda r: r.spsd and r.spsd_first and r.spsd_weighted and not r.sisd,
    "spsd_second": lambda r: r.spsd and not r.spsd_first and r.spsd_weighted and not r.sisd,
    "spsd_second_unweighted": lambda r: r.spsd and not r.spsd_first and not r.spsd_weighted and not r.sisd,
    "sisd_no_relevance": lambda r: r.sisd and r.spsd and r.object_relevance == "none",
    "sisd_subtract": lambda r: r.sisd and r.spsd and r.object_relevance == "subtract",
    "sisd_concat": lambda r: r.sisd and r.spsd and r.object_relevance == "concat",
    "sisd_shared": lambda r: r.sisd and r.spsd and r.object_relevance == "add" and r.share_sisd_mlp,
}


@pytest.mark.parametrize("name", NAMES)
def test_network(name: str) -> None:
    config, coco = composed(name), name.startswith("coco")
    assert config.model.pretrained
    assert (config.model.norm, config.model.frozen_stages) == ("fixed_bn", 1)
    config = config.copy()
    config.model.pretrained = False
    with torch.device("meta"):
        model = build_model(config.model, config.refiner, 80 if coco else 20)

    depth = 101 if "r101" in name else 50
    assert len(model.backbone.layer3) == {50: 6, 101: 23}[depth]  # type: ignore[arg-type]
    assert sum(not p.requires_grad for p in model.parameters()) == 33
    assert isinstance(model, OAMILDet) == name.endswith("oa_mil")
    if is_plain(name):
        assert model.refiner is None
        assert (model.neck.extra, hasattr(model.neck.fpn_convs[0], "gn")) == ("pool", False)
        assert (model.rcnn.loss_weight, model.rpn.cls_weight, model.rpn.smooth_l1_beta) == (1.0, 1.0, 0.0)
        corner = not name.endswith("retrain") and depth == 50
        stds = (0.1, 0.1, 0.1, 0.1) if corner else (0.1, 0.1, 0.2, 0.2)
        assert (model.rcnn.coder.stds, model.rpn.coder.kind) == (stds, "corner" if corner else "delta")
        return
    assert (model.neck.extra, hasattr(model.neck.fpn_convs[0], "gn")) == ("conv", True)
    assert (model.rcnn.loss_weight, model.rpn.cls_weight) == (4.0, 4.0)
    assert (model.rcnn.coder.stds, model.rpn.coder.kind) == ((0.1, 0.1, 0.2, 0.2), "delta")
    if name.endswith("same_neck"):
        assert model.refiner is None
        return
    refiner = model.refiner
    assert refiner is not None
    low = name in ("voc07_r50_noise10", "voc07_r50_noise20")
    ratios, shakes = LOW if low else WIDE
    assert sorted(refiner.ratios) == sorted(ratios)
    assert list(refiner.shakes) == shakes
    assert (refiner.top_k, refiner.num_negatives, refiner.sisd_weight) == (7, 500, 5.0)
    variant = re.sub(r"^(coco|voc07)_r\d+_(noise\d+|clean)_?", "", name) or "full"
    assert EXPECTED[variant](refiner), variant


def test_oa_mil_settings() -> None:
    for name, weight, extension in (("coco_r50_noise20", 0.01, "refine"), ("coco_r50_noise40", 0.1, "repeat")):
        settings = composed(f"{name}_oa_mil").model.oa_mil
        assert (settings.selection_weight, settings.extension) == (weight, extension)
        assert (settings.selection_epoch, settings.extension_epoch) == (2, 9)
    assert composed("voc07_r50_noise40_oa_mil").model.oa_mil.extension == "refine"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("+experiment=coco_r50_noise4", "coco_r50_noise40"),
        ("experiment=coco_r50_noise40", "write +experiment=coco_r50"),
    ],
)
def test_unknown_experiment_is_answered_with_the_nearest(argument: str, message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssd_det.train", argument, f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_documented_command_asks_for_the_data_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssd_det.train", "+experiment=coco_r50_noise40", "data.root=nowhere"]
    done = subprocess.run(
        [*command, f"output_dir={tmp_path / 'run'}"], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 2
    assert "data.root=nowhere: no such folder" in done.stderr
