"""``if-nas-train`` and ``if-nas-eval`` from end to end on one tiny run, and the data and networks they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from if_nas_runs import CHAIN, FOLDER, IMAGENET, call, train, write_cifar, write_folders

from if_nas.build import CELLS, build_network, has_dead_nodes
from if_nas.derived import DerivedNetwork
from if_nas.genotype import write_genotype
from if_nas.load import load_run
from if_nas.micro_genotype import MICRO_GENOTYPES
from if_nas.micro_network import MicroNetwork
from if_nas.official import to_official
from if_nas.published import GENOTYPES, find_architecture
from vireo.testing.runs import logged, losses, read

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
SMALL = ["epochs=1", "data.train_images=32", "data.val_images=16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on generated data, with its report."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(folder)
    return folder


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and curves take longer than these runs."""
    monkeypatch.setattr("if_nas.train_report.write_run_report", lambda *_: None)


def test_a_run_leaves_its_files(run: Path) -> None:
    names = {"config.yaml", "classes.json", "log.jsonl", "metrics.json", "model.safetensors", "network.json"}
    assert names <= {path.name for path in run.iterdir()}
    result, network = read(run / "metrics.json"), read(run / "network.json")
    metrics = result["metrics"]
    assert list(metrics) == ["top1", "top5", "width", "depth", "params", "auxiliary_params", "macs"]
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 100
    assert (metrics["width"], metrics["depth"], metrics["auxiliary_params"]) == (4, 6, 0)
    assert all(network[name] == metrics[name] for name in ("width", "depth", "params", "macs"))
    assert network["stage2"] == CHAIN.to_dict()["stage2"]
    evaluations = [line["metrics"]["top1"] for line in logged(run, "eval")]
    assert len(evaluations) == 2
    assert result["best"] == {"monitor": "top1", "value": max(evaluations)}


def test_cost_is_that_of_the_network(run: Path) -> None:
    network, metrics = load_run(run).network, read(run / "metrics.json")["metrics"]
    assert sum(parameter.numel() for parameter in network.parameters()) == metrics["params"]


def test_report(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "Best epochs" in page
    assert "2 + 2 + 2" in page
    assert (run / "gallery" / "network.png").stat().st_size > 0


def test_eval_repeats_the_numbers_of_training(run: Path, tmp_path: Path) -> None:
    outcome = call("eval", f"run={run}", f"out={tmp_path}/eval.json", "data.eval_batch_size=7")
    assert outcome.status == 0, outcome.err
    metrics = read(tmp_path / "eval.json")["metrics"]
    assert metrics.pop("official_macs") > metrics["macs"]
    assert metrics == read(run / "metrics.json")["metrics"]
    assert "40 images" in outcome.out


def test_eval_of_other_weights(run: Path, tmp_path: Path) -> None:
    """Of the best epoch, of a checkpoint of training, and in the authors' layout."""
    official = tmp_path / "official.pt"
    state = {f"module.{key}": value for key, value in to_official(load_run(run).network).items()}
    torch.save({"epoch": 2, "state_dict": state, "best_acc_top1": 50.0}, official)
    best = max(line["metrics"]["top1"] for line in logged(run, "eval"))
    last = logged(run, "eval")[-1]["metrics"]["top1"]
    newest = sorted((run / "checkpoints").glob("step_*.pt"))[-1]
    for weights, wanted in ((run / "checkpoints" / "best.pt", best), (newest, last), (official, last)):
        outcome = call("eval", f"run={run}", f"weights={weights}", f"out={tmp_path}/eval.json")
        assert outcome.status == 0, outcome.err
        assert read(tmp_path / "eval.json")["metrics"]["top1"] == wanted


def test_a_finished_run_says_so(run: Path) -> None:
    weights = (run / "model.safetensors").read_bytes()
    assert "this run is finished; set resume=never, or more epochs" in train(run).err
    assert (run / "model.safetensors").read_bytes() == weights


@pytest.mark.usefixtures("_no_report")
def test_the_recipe_reaches_the_optimizer(tmp_path: Path) -> None:
    options = ["optim.lr=0.2", "optim.min_lr=0.02", "optim.warmup_epochs=2", "epochs=4"]
    train(tmp_path / "run", *options, "data.train_images=16", "data.val_images=16", "optim.schedule=linear")
    assert [line["lr"] for line in logged(tmp_path / "run")] == pytest.approx([0.1, 0.155, 0.11, 0.065])


@pytest.mark.usefixtures("_no_report")
def test_widest_network_within_a_budget(tmp_path: Path) -> None:
    outcome = train(tmp_path / "run", *SMALL, "model.width=null", "model.max_macs=3e5")
    metrics = read(tmp_path / "run" / "metrics.json")["metrics"]
    assert metrics["macs"] <= 3e5
    assert f"width {metrics['width']}, {metrics['params']:,} parameters" in outcome.out
    wider = DerivedNetwork(CHAIN, metrics["width"] + 2, 6, "cifar")
    train(tmp_path / "wider", *SMALL, f"model.width={wider.width}")
    assert read(tmp_path / "wider" / "metrics.json")["metrics"]["macs"] > 3e5
    assert load_run(tmp_path / "run").width == metrics["width"]


@pytest.mark.usefixtures("_no_report")
def test_auxiliary_head_and_drop_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop path grows from 0 towards its rate; the auxiliary loss is logged, its parameters counted apart."""
    rates: list[float] = []
    forward = DerivedNetwork.forward

    def noted(network: DerivedNetwork, images: torch.Tensor) -> Any:
        if network.training:
            rates.append(network.drop_path)
        return forward(network, images)

    monkeypatch.setattr(DerivedNetwork, "forward", noted)
    options = ["data.image_size=[32,32]", "model.auxiliary=true", "model.drop_path=0.4", "model.width=2", "epochs=4"]
    train(tmp_path / "run", *options, "data.train_images=16", "data.val_images=16", "data.cutout=16")
    assert rates[1:] == pytest.approx([0, 0.1, 0.2, 0.3])  # the first call checks the size of the images
    assert all(entry.keys() == {"loss_ce", "loss_aux"} for entry in losses(tmp_path / "run"))
    assert read(tmp_path / "run" / "metrics.json")["metrics"]["auxiliary_params"] > 0
    assert call("eval", f"run={tmp_path}/run").status == 0


@pytest.mark.usefixtures("_no_report")
def test_a_network_of_cells(tmp_path: Path) -> None:
    options = ["genotype=darts_v2", "model.cells=3", "model.width=2", "model.channels_last=true"]
    train(tmp_path / "run", *SMALL, *options)
    loaded = load_run(tmp_path / "run")
    assert isinstance(loaded.network, MicroNetwork)
    assert loaded.architecture == MICRO_GENOTYPES["darts_v2"]
    assert call("eval", f"run={tmp_path}/run").status == 0


def test_what_names_an_architecture(tmp_path: Path) -> None:
    assert find_architecture("if_l8") == GENOTYPES["if_l8"]
    assert find_architecture("darts_v1") == MICRO_GENOTYPES["darts_v1"]
    write_genotype(tmp_path / "genotype.json", CHAIN, depth=6)
    assert find_architecture(str(tmp_path)) == find_architecture(str(tmp_path / "genotype.json")) == CHAIN


def test_nodes_that_nothing_reads() -> None:
    """Several processes must expect parameters without gradient then."""
    names = ("if_l8", "if_l6_keep1", "if_l8_keep1", "taas_sample_l4_v2")
    assert [has_dead_nodes(GENOTYPES[name]) for name in names] == [True, True, False, False]
    assert has_dead_nodes(MICRO_GENOTYPES["darts_v2"])  # of cells nothing is assumed


def test_number_of_cells_follows_the_variant() -> None:
    from omegaconf import OmegaConf

    common = {"width": 2, "cells": None, "auxiliary": False, "drop_path": 0.0, "channels_last": False}
    for variant, cells in CELLS.items():
        with torch.device("meta"):
            model = OmegaConf.create({**common, "variant": variant})
            network = build_network(model, MICRO_GENOTYPES["darts_v2"], 10)
        assert isinstance(network, MicroNetwork)
        assert len(network.cells) == cells


@pytest.mark.usefixtures("_no_report")
def test_compiled_network_is_the_one_that_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *_, **__: compiled.append(module))
    train(tmp_path / "run", *SMALL, "compile=true")
    assert [type(module) for module in compiled] == [DerivedNetwork]


@pytest.mark.usefixtures("_no_report")
def test_cifar_at_a_reduced_size(tmp_path: Path) -> None:
    root = write_cifar(tmp_path / "cifar")
    options = ["data=cifar10", "data.image_size=[16,16]", "data.batch_size=16", "model.width=4", "epochs=1"]
    train(tmp_path / "run", *options, f"data.root={root}", data=[])
    assert read(tmp_path / "run" / "classes.json")[0] == "airplane"
    moved = root.rename(tmp_path / "moved")
    outcome = call("eval", f"run={tmp_path}/run", f"data.root={moved}")
    assert outcome.status == 0, outcome.err
    assert "8 images" in outcome.out


@pytest.mark.usefixtures("_no_report")
def test_folders_of_images(tmp_path: Path) -> None:
    """Three classes: no top-5. Small images stay on the device, large ones are cropped by workers."""
    root = write_folders(tmp_path / "data", {"train": 6, "val": 2}, vary=True)
    (tmp_path / "two.txt").write_text("bee\ncat\n")
    train(tmp_path / "small", f"data.root={root}", data=FOLDER)
    assert set(read(tmp_path / "small" / "metrics.json")["metrics"]).isdisjoint({"top5"})
    train(tmp_path / "large", f"data.root={root}", f"data.classes_file={tmp_path}/two.txt", data=IMAGENET)
    assert read(tmp_path / "large" / "classes.json") == ["bee", "cat"]
    outcome = call("eval", f"run={tmp_path}/large")
    assert "4 images" in outcome.out
    assert (
        read(tmp_path / "large" / "eval.json")["metrics"]["top1"]
        == (read(tmp_path / "large" / "metrics.json")["metrics"]["top1"])
    )
