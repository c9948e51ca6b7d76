"""Multiply-adds of other networks, on-rates over uneven batches, neighbourhoods."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from fgc.attach import attach_gates
from fgc.blocks import gated_blocks
from fgc.macs import count_macs
from fgc.meters import GateRecords, OnRates
from fgc.neighborhoods import gate_purity, nearest_by_cosine, neighbor_overlap
from fgc.resnet import GatedResNet, gated_resnet20
from vireo.errors import InputError


@pytest.mark.parametrize(
    ("name", "dense", "gates", "share"),
    [("resnet18", 1_813_561_344, 54_272, 0.9243), ("resnet34", 3_663_249_408, 113_664, 0.9625)],
)
def test_imagenet_networks(name: str, dense: int, gates: int, share: float) -> None:
    """The numbers of section 11."""
    report = count_macs(attach_gates(timm.create_model(name)), (224, 224))
    assert (report.dense, report.gates, report.classifier) == (dense, gates, 512_000)
    assert sum(report.blocks) / report.dense == pytest.approx(share, abs=5e-5)


def test_half_of_the_channels() -> None:
    report = count_macs(gated_resnet20(), (32, 32), [0.5] * 9)
    assert report.gated == 442_368 + (40_550_400 - 442_368) / 2
    assert report.pruning == pytest.approx(1 - (report.gated + 9_984) / 40_550_400)
    assert report.exact_pruning == pytest.approx(1 - (report.gated + 9_984 + 640) / (40_550_400 + 640))
    assert report.ideal_speedup == pytest.approx(1 / (1 - report.pruning))


def test_counting_leaves_the_network_as_it_was() -> None:
    network = attach_gates(torchvision.models.resnet18())
    network.layer1.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    count_macs(network, (64, 64))
    assert network.training
    assert not network.layer1.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("rates", [[0.5] * 8, [0.5] * 8 + [1.5], [0.5] * 8 + [float("nan")]])
def test_rates_that_do_not_fit_are_refused(rates: list[float]) -> None:
    with pytest.raises(InputError, match="9 gated blocks"):
        count_macs(gated_resnet20(), (32, 32), rates)


def test_on_rates_weigh_images_or_batches() -> None:
    network = GatedResNet(1, width=4).eval()
    rates = OnRates()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 3, 8, 8, generator=generator) * 3
    hard = []
    for batch in (images[:4], images[4:]):
        with torch.no_grad():
            network(batch)
        rates.add(network)
        logits = [block.gate.logits for block in gated_blocks(network)]
        hard.append([(z > 0).float().mean(1) for z in logits if z is not None])
    by_image = [torch.cat(parts).mean().item() for parts in zip(*hard)]
    by_batch = [(first.mean() + second.mean()).item() / 2 for first, second in zip(*hard)]
    assert rates.mean == pytest.approx(by_image)
    assert rates.mean_of_batches == pytest.approx(by_batch)


def test_records_hold_every_image_once() -> None:
    network = GatedResNet(1, width=4).eval()
    records = GateRecords([2])
    images, labels = torch.randn(5, 3, 8, 8), torch.arange(5)
    for start in (0, 3):
        with torch.no_grad():
            network(images[start : start + 3])
        records.add(network, labels[start : start + 3])
    (features,), (logits,), gathered = records.gathered()
    assert features.shape == logits.shape == (5, 16)
    assert torch.equal(gathered, labels)


def naive_overlap(a: torch.Tensor, b: torch.Tensor, k: int) -> float:
    cosine = nn.CosineSimilarity(dim=-1)
    shares = []
    for i in range(len(a)):
        others = [j for j in range(len(a)) if j != i]
        similar = [{j: float(cosine(x[i], x[j])) for j in others} for x in (a, b)]
        near = [set(sorted(others, key=lambda j, s=s: -s[j])[:k]) for s in similar]  # type: ignore[misc]
        shares.append(len(near[0] & near[1]) / k)
    return sum(shares) / len(shares)


def test_overlap_and_purity() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(40, 6, generator=generator)
    logits = features + 0.7 * torch.randn(40, 6, generator=generator)
    assert neighbor_overlap(features, logits, 5) == pytest.approx(naive_overlap(features, logits, 5), abs=1e-6)
    assert neighbor_overlap(features, 3 * features, 5) == 1.0
    far_apart = torch.eye(4).repeat_interleave(10, 0) + 0.01 * torch.randn(40, 4, generator=generator)
    labels = torch.arange(4).repeat_interleave(10)
    assert gate_purity(far_apart, labels, 9) == 1.0
    assert gate_purity(far_apart, labels, 39) == pytest.approx(9 / 39)


def test_own_row_is_never_a_neighbour() -> None:
    near = nearest_by_cosine(torch.ones(7, 3), 6)
    assert all(set(row.tolist()) == set(range(7)) - {i} for i, row in enumerate(near))


@pytest.mark.parametrize("k", [0, 5])
def test_more_neighbours_than_others_are_refused(k: int) -> None:
    with pytest.raises(InputError, match="among 5 samples"):
        nearest_by_cosine(torch.randn(5, 2), k)
