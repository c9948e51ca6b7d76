"""Sub-networks are ranked in a super-network with statistics of their own, and compared with training them alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from if_nas_searches import DARTS, REPORT, TINY, search
from torch import Tensor, nn

from if_nas import LChainSpace, read_genotype, write_genotype
from if_nas.data import build_datasets, build_loader
from if_nas.evaluation import evaluate
from if_nas.load import write_architecture
from if_nas.rank import match
from if_nas.ranking import draw_subnets, estimate_batch_norm, kendall_tau
from if_nas.search_load import load_search
from if_nas.supernet import LChainSupernet
from vireo.engine.logs import write_json
from vireo.errors import InputError
from vireo.testing import Outcome, call_script
from vireo.testing.runs import read

SPACE = LChainSpace((2, 3, 2), 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REPORT, lambda *_, **__: None)
        return search(tmp_path_factory.mktemp("rank") / "run", "epochs=1", settings=TINY)


def rank(run: Path, *arguments: object) -> Outcome:
    """Run ``if-nas-rank`` in this process."""
    return call_script("if_nas.rank", f"run={run}", "count=4", "bn_images=24", *arguments)


def trained(folder: Path, subnet: Path, top1: float) -> Path:
    """A folder as ``if-nas-train`` leaves it, as far as a ranking reads it."""
    folder.mkdir(parents=True)
    write_architecture(folder, read_genotype(subnet), {"width": 4})
    write_json(folder / "metrics.json", {"metrics": {"top1": top1}})
    return folder


def test_kendall_tau() -> None:
    assert kendall_tau([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)  # two pairs agree, one does not
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)  # corrected for a tie
    assert np.isnan(kendall_tau([1, 1], [1, 2]))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [([1.0], [1.0], "1 and 1 scores"), ([1, 2], [1], "2 and 1 scores"), ([1, float("nan")], [1, 2], "not finite")],
)
def test_scores_that_rank_nothing(first: list[float], second: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kendall_tau(first, second)


def test_drawn_subnets() -> None:
    """One input a node; the first ones do not depend on how many are drawn."""
    space = LChainSpace((6, 6, 6), 4)
    drawn = draw_subnets(space, 6, seed=3)
    assert drawn[:4] == draw_subnets(space, 4, seed=3)
    assert draw_subnets(space, 4, seed=4) != drawn[:4]
    assert len(draw_subnets(SPACE, 12, seed=0)) == 12  # all of them: 2 * 3 * 2
    with pytest.raises(InputError, match="only 12 different sub-networks"):
        draw_subnets(SPACE, 13, seed=0)
    for subnet in drawn:
        assert all(len({source for _, source in inputs}) == 1 for stage in subnet.stages for inputs in stage.values())


def test_statistics_are_the_mean_over_batches() -> None:
    """And nothing else changes; images are seen without an update of weights or momenta."""
    norm = nn.BatchNorm2d(2, momentum=0.3)
    generator = torch.Generator().manual_seed(0)
    batches: list[tuple[Tensor, Any]] = [
        (torch.randn(4, 2, 3, 3, generator=generator) + number, {}) for number in range(3)
    ]
    estimate_batch_norm(norm, norm, batches)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    means = torch.stack([images.mean((0, 2, 3)) for images, _ in batches]).mean(0)
    variances = torch.stack([images.var((0, 2, 3)) for images, _ in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.3
    assert not norm.training
    torch.testing.assert_close(norm.weight.detach(), torch.ones(2))


def test_statistics_of_a_super_network() -> None:
    """In evaluation a sub-network with statistics of one batch gives what training mode gives for that batch."""
    torch.manual_seed(0)
    network = LChainSupernet(SPACE, 4, 5, "cifar")
    images = torch.randn(8, 3, 16, 16)
    before = {name: value.clone() for name, value in network.named_parameters()}
    for subnet in draw_subnets(SPACE, 2, 0):
        forward: Callable[[Tensor], Tensor] = partial(network, subnet=subnet)
        with torch.no_grad():
            wanted = forward(images) if network.train() else None
        estimate_batch_norm(network, forward, [(images, {})])
        with torch.no_grad():
            torch.testing.assert_close(forward(images), wanted, rtol=0.02, atol=0.02)  # variances are unbiased here
    assert all(torch.equal(before[name], value) for name, value in network.named_parameters())


def test_ranking(run: Path, tmp_path: Path) -> None:
    weights = (run / "model.safetensors").read_bytes()
    outcome = rank(run)
    assert outcome.status == 0
    assert "statistics of 24 training images\n" in outcome.out
    result = read(run / "ranking" / "ranking.json")
    assert (run / "model.safetensors").read_bytes() == weights
    assert [row["subnet"] for row in result["subnets"]] == [f"subnets/{number:02d}.json" for number in range(4)]
    assert result["kendall_tau"] is None
    assert (result["seed"], result["bn_images"], result["images"]) == (0, 24, 20)
    subnets = [read_genotype(run / "ranking" / row["subnet"]) for row in result["subnets"]]
    assert subnets == draw_subnets(SPACE, 4, 0)
    assert [row["depth"] for row in result["subnets"]] == [subnet.depth for subnet in subnets]

    files = ",".join(str(run / "ranking" / row["subnet"]) for row in result["subnets"][2:])
    assert rank(run, f"subnets=[{files}]", f"out={tmp_path}/out").status == 0
    again = read(tmp_path / "out" / "ranking.json")["subnets"]
    assert [row["top1"] for row in again] == [row["top1"] for row in result["subnets"][2:]]  # whatever came before


def test_accuracy_of_a_subnet(run: Path, tmp_path: Path) -> None:
    """By hand: all training images as one batch."""
    outcome = rank(run, "bn_images=999", "data.eval_batch_size=48", f"out={tmp_path}")
    assert outcome.status == 0
    assert "statistics of 48 training images, which are all\n" in outcome.out
    loaded = load_search(run)
    data = loaded.config.data
    data.eval_batch_size = 48
    train_set, val_set = build_datasets(data)
    forward = partial(loaded.network, subnet=draw_subnets(SPACE, 1, 0)[0])
    estimate_batch_norm(loaded.network, forward, build_loader(train_set, data, train=False))
    found = evaluate(forward, build_loader(val_set, data, train=False))
    row = read(tmp_path / "ranking.json")["subnets"][0]
    assert (row["top1"], row["top5"]) == (found["top1"], found["top5"])


def test_correlation_with_training_alone(run: Path, tmp_path: Path) -> None:
    """In any order; tau is that of the accuracies in the table."""
    assert rank(run, f"out={tmp_path}/first").status == 0
    rows = read(tmp_path / "first" / "ranking.json")["subnets"]
    folders = []
    for number in (2, 0, 3, 1):
        folder = tmp_path / f"alone_{number}"
        folders.append(trained(folder, tmp_path / "first" / rows[number]["subnet"], 50 + 3 * number))
    outcome = rank(run, f"standalone=[{','.join(map(str, folders))}]", f"out={tmp_path}/second")
    assert outcome.status == 0, outcome.err
    result = read(tmp_path / "second" / "ranking.json")
    assert [row["alone"] for row in result["subnets"]] == [50, 53, 56, 59]
    tau = kendall_tau([row["top1"] for row in rows], [50, 53, 56, 59])
    assert result["kendall_tau"] == (None if np.isnan(tau) else pytest.approx(tau))
    assert "Kendall's tau" in outcome.out


def test_runs_that_do_not_belong(run: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.json"
    write_genotype(foreign, SPACE.full())
    other = trained(tmp_path / "other", foreign, 50)
    assert "was trained with none of these sub-networks" in rank(run, f"standalone=[{other},{other}]").mistake()
    (other / "metrics.json").unlink()
    assert f"{other}/metrics.json: names no accuracy" in rank(run, f"standalone=[{other}]").mistake()
    large = tmp_path / "large.json"
    write_genotype(large, LChainSpace((4, 3, 2), 3).full())
    assert "draw it from the same space" in rank(run, f"subnets=[{large}]").mistake()
    assert f"{foreign}: is the same sub-network as {foreign}" in rank(run, f"subnets=[{foreign},{foreign}]").mistake()


def test_matching() -> None:
    first, second = draw_subnets(LChainSpace((6, 6, 6), 4), 2, 0)
    assert match([first, second], []) == [None, None]
    assert match([first, second], [("b", second, 2.0), ("a", first, 1.0)]) == [1.0, 2.0]
    with pytest.raises(InputError, match="b: is a second run of the same sub-network"):
        match([first, second], [("a", first, 1.0), ("b", first, 2.0)])
    with pytest.raises(InputError, match="one run ranks nothing"):
        match([first, second], [("a", first, 1.0)])


def test_cells_are_not_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, lambda *_, **__: None)
    folder: Any = search(tmp_path / "cells", "epochs=1", settings=DARTS)
    assert "is no search in an L-chain space" in rank(folder).mistake()
    shutil.rmtree(folder)
