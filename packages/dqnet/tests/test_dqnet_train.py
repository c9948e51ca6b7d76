"""Training runs: what the first step computes, every arm, where they start, what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from dqnet_runs import REPORT, TINY, configuration, done, train

from dqnet import DQnet
from dqnet.build import build_network
from dqnet.data import build_dataset, build_loader
from dqnet.load import load_run
from dqnet.model import ARMS
from vireo.engine.checkpoint import save_weights
from vireo.engine.rng import seed_all
from vireo.testing.runs import logged, losses, read, weights

HERE: dict[str, Any] = {"device": torch.device("cpu"), "rank": 0, "world_size": 1, "seed": 0}
STILL = ["optim.lr=1e-30", "optim.vit_lr=1e-30", "optim.weight_decay=0", "optim.vit_weight_decay=0", "epochs=1"]


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs; that of ``finished``, which is made before, has its report."""
    monkeypatch.setattr(REPORT, lambda *_, **__: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(tmp_path_factory.mktemp("train") / "run", "gallery_images=2")


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the transformer alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REPORT, lambda *_, **__: None)
        return done(tmp_path_factory.mktemp("train") / "vit", "model.arm=vit", "epochs=1")


def test_run(finished: Path) -> None:
    content = read(finished / "metrics.json")
    assert content["finished"]
    assert content["steps"] == 4
    measured = {"Smeasure", "wFmeasure", "MAE", "adpEm", "meanEm", "maxEm", "adpFm", "meanFm", "maxFm", "IoU"}
    assert measured <= content["metrics"].keys()
    assert content["best"]["monitor"] == "wFmeasure"
    assert all(set(step) == {"loss_bce", "loss_iou"} for step in losses(finished))
    assert len(list((finished / "gallery").glob("*.png"))) == 2
    assert "data:image" in (finished / "report.html").read_text()


def test_first_step_by_hand(finished: Path) -> None:
    """The same network and batch, and the loss of section 3.5 written out."""
    config = configuration(*TINY)
    seed_all(0)
    network = build_network(config).train()
    loader = build_loader(build_dataset(config.data, train=True), config.data, 32, train=True, **HERE)
    images, targets = next(loader.batches(0))
    masks: torch.Tensor = cast(Any, targets)["mask"]  # a dict of stacked tensors, in training
    assert (images.shape, masks.shape) == ((4, 3, 32, 32), (4, 1, 32, 32))
    logits = network(images)
    weight = 1 + 5 * (F.avg_pool2d(masks, 31, stride=1, padding=15) - masks).abs()
    found = logits.sigmoid()
    common = (weight * found * masks).sum((2, 3))
    iou = 1 - (common + 1) / ((weight * (found + masks)).sum((2, 3)) - common + 1)
    bce = -(masks * F.logsigmoid(logits) + (1 - masks) * F.logsigmoid(-logits)).mean()
    assert losses(finished)[0] == pytest.approx({"loss_bce": bce.item(), "loss_iou": iou.mean().item()}, rel=1e-5)


def test_loading_a_run(finished: Path) -> None:
    images = torch.rand(1, 3, 32, 32)
    loaded = load_run(finished)
    assert not loaded.network.training
    fresh, best = load_run(finished, untrained=True), load_run(finished, finished / "checkpoints" / "best.pt")
    assert torch.equal(best.network(images), loaded.network(images))
    assert not torch.equal(fresh.network(images), loaded.network(images))
    assert torch.equal(DQnet.from_pretrained(finished)(images), loaded.network(images))
    assert loaded.config.model.window == 2


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains(arm: str) -> None:
    """Every parameter gets a gradient; those behind a zero-initialised gain a zero one."""
    network = build_network(configuration(*TINY, f"model.arm={arm}")).train()
    network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    assert all(network.get_parameter(f"head.head.{name}").grad.any() for name in ("weight", "bias"))  # type: ignore[union-attr]


@pytest.mark.parametrize("arm", ["concat", "resnet"])
def test_a_run_of_a_control(arm: str, tmp_path: Path) -> None:
    folder = done(tmp_path / "run", f"model.arm={arm}", "epochs=1", "loss.bce=weighted")
    assert len(losses(folder)) == 2
    assert load_run(folder).network.arm == arm


def test_the_second_stage_starts_as_the_first_ended(first_stage: Path, tmp_path: Path) -> None:
    """Only the transformer is taken; the rest is what a run without a start draws."""
    taken, fresh = done(tmp_path / "a", *STILL, f"init.vit={first_stage}"), done(tmp_path / "b", *STILL)
    theirs, own, drawn = weights(first_stage), weights(taken), weights(fresh)
    kept = {name for name in own if name.startswith("vit.")}
    assert all(torch.equal(own[name], theirs[name]) for name in kept)
    assert not torch.equal(own["vit.blocks.0.attn.qkv.weight"], drawn["vit.blocks.0.attn.qkv.weight"])
    same = {name for name in own if name.endswith(".weight") and not name.startswith("vit.")}
    assert all(torch.allclose(own[name], drawn[name], rtol=0, atol=1e-20) for name in same)  # zeros do not stay zero


def test_starts_from_the_whole_network(first_stage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = train(f"output_dir={folder}", *STILL, "model.arm=vit", f"init.model={first_stage}")
    assert f"{first_stage}" in outcome.out + outcome.err  # says what it loaded
    theirs, own = weights(first_stage), weights(folder)
    assert all(torch.equal(own[name], theirs[name]) for name in own if name.endswith("weight"))


def test_starts_from_a_file_of_a_resnet(finished: Path, tmp_path: Path) -> None:
    prefix = "resnet.trunk."
    state = {key.removeprefix(prefix): value for key, value in weights(finished).items() if key.startswith(prefix)}
    save_weights({**state, "fc.weight": torch.zeros(10, 128), "fc.bias": torch.zeros(10)}, tmp_path / "r.safetensors")
    folder = done(tmp_path / "run", *STILL, f"init.resnet={tmp_path / 'r.safetensors'}", "model.arm=concat")
    own = weights(folder)
    assert all(torch.equal(own[prefix + key], value) for key, value in state.items() if key.endswith("weight"))


def test_gradient_checkpointing_changes_nothing(finished: Path, tmp_path: Path) -> None:
    folder = done(tmp_path / "run", "grad_checkpointing=true", "epochs=1")
    assert losses(folder)[0] == losses(finished)[0]
    assert losses(folder)[1] == pytest.approx(losses(finished)[1], rel=1e-3)  # another schedule: half the steps


def test_rates_of_the_log_fall_to_the_least(finished: Path) -> None:
    """The first step is the warm-up's, the last has the least factor."""
    rates = [line["lr"] for line in logged(finished)]
    assert rates[0] == pytest.approx(1e-3 * 0.001)
    assert rates[1] == pytest.approx(1e-3 * (0.001 + 0.999 * (2 / 3) ** 0.9))
    assert rates[-1] == pytest.approx(1e-3 * 0.001)


def test_another_side_than_that_of_the_pictures(tmp_path: Path) -> None:
    """Pictures are resized for the network, its answers for the masks."""
    folder = done(tmp_path / "run", "data.image_size=40", "epochs=1")
    assert 0 <= read(folder / "metrics.json")["metrics"]["MAE"] <= 1


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = done(tmp_path / "run", "epochs=1", "wandb.mode=offline")
    assert list((folder / "wandb").glob("offline-run-*"))
