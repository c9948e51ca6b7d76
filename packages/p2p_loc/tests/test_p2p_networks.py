"""The networks as modules: losses, detections, padding, processes, precision, other backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from p2p_networks import KINDS, NARROW, batch, narrow
from p2p_runs import configuration
from torch import Tensor

from p2p_loc.build import build_localizer
from p2p_loc.losses import focal_loss
from p2p_loc.p2p_head import MATCHES_PER_OBJECT, P2PHead, P2PNet, match_predictions
from p2p_loc.reppoints import RepPoints, RepPointsHead, RepPointsOutput
from p2p_loc.transform import points_to_boxes
from vireo.errors import InputError

Targets = list[dict[str, Any]]


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_trained(kind: str) -> None:
    model = narrow(kind).train()
    losses = model(*batch())
    assert all(value.ndim == 0 and value > 0 for value in losses.values())
    total(losses).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_objects(kind: str) -> None:
    model = narrow(kind).train()
    images, (_, empty) = batch()
    losses = model(images, [empty, empty])
    assert losses["loss_cls"] > 0
    assert all(value == 0 for name, value in losses.items() if name != "loss_cls")
    total(losses).backward()  # every parameter takes part, as processes that train together expect
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_detections_are_ordered_and_inside(kind: str) -> None:
    model = narrow(kind, score_threshold=0.0, max_detections=50).eval()
    images, targets = batch()
    for found, target in zip(model(images, targets), targets, strict=True):
        boxes, (height, width) = found["boxes"], target["size"]
        assert boxes.shape == (len(found["scores"]), 4)
        assert 0 < len(boxes) <= 50
        assert (found["scores"].diff() <= 0).all()
        assert set(found["labels"].tolist()) <= {0, 1}
        points = boxes if kind != "p2p" else (boxes[:, :2] + boxes[:, 2:]).repeat(1, 2) / 2  # of P2P only the points
        assert points.min() >= 0
        assert (points[:, [0, 2]] <= width).all()
        assert (points[:, [1, 3]] <= height).all()


def test_scores_before_training_are_low() -> None:
    (found, _) = narrow("adap").eval().candidates(batch()[0], [(96, 128), (90, 70)])
    assert float(found.scores.mean()) == pytest.approx(0.01, rel=0.5)


def test_at_most_2000_candidates_of_a_level() -> None:
    head = RepPointsHead(2, 8, (4, 8))
    shapes = [(1, 50, 60), (1, 25, 30)]
    found = RepPointsOutput(
        [torch.randn(n, 2, h, w) for n, h, w in shapes], *([torch.randn(n, 18, h, w) for n, h, w in shapes],) * 2
    )
    (kept,) = head.candidates(found, [(200, 240)])
    assert len(kept.boxes) == len(kept.scores) == 2000 + 750
    left_out = found.logits[0].sigmoid().amax(1).flatten().sort().values[: 3000 - 2000]
    assert kept.scores[:2000].amax(1).min() >= left_out.max()


def outputs_of(head: RepPointsHead, images: int, seed: int) -> RepPointsOutput:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(-(-96 // s), -(-128 // s)) for s in head.strides]
    maps = [[torch.randn(images, c, *size, generator=generator) for size in sizes] for c in (2, 18, 18)]
    return RepPointsOutput(*maps)


def test_padding_is_not_trained() -> None:
    """Of the second image, 90x70 in 96x128, columns from 96 on and no rows lie beyond its own padding."""
    head = RepPointsHead(2, 8)
    targets: Targets = batch()[1]
    targets[1] = {"boxes": torch.tensor([[60.0, 40, 69, 49]]), "labels": torch.tensor([1]), "size": (90, 70)}
    found = outputs_of(head, 2, 0)
    expected = head.losses(found, targets)
    for maps in found:
        for m, stride in zip(maps, head.strides):
            m[1, :, :, -(-96 // stride) :] = 3.0
    for name, value in head.losses(found, targets).items():
        torch.testing.assert_close(value, expected[name])
    found.logits[0][1, 0, 0, 23] += 1.0
    assert head.losses(found, targets)["loss_cls"].sum() > expected["loss_cls"].sum()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_holds_no_candidates(kind: str) -> None:
    """Of a 90x70 image in a batch of 96x128, columns from 96 on lie beyond its own padding."""
    model = narrow(kind, score_threshold=0.0).eval()
    sizes = [(96, 128), (90, 70)]
    with torch.no_grad():
        found = model.head(model.extract(batch()[0])) if kind != "p2p" else model.head(model.extract(batch()[0])[0])
    whole, part = model.head.candidates(found, sizes)
    strides = [model.head.stride] if kind == "p2p" else model.head.strides
    assert len(whole.boxes) == sum(-(-96 // s) * -(-128 // s) for s in strides)
    assert len(part.boxes) == sum(-(-96 // s) * -(-96 // s) for s in strides)


def test_padding_holds_no_points() -> None:
    head = P2PHead(1, 8, stride=8)
    target = {"boxes": torch.tensor([[60.0, 0, 68, 8]]), "labels": torch.tensor([0]), "size": (20, 60)}
    found = head(torch.zeros(1, 8, 4, 12))  # a batch of 32x96, whose right third is padding
    assigned = head.assign(found, [target])
    assert torch.equal(assigned.usable[0], found.locations[:, 0] < 64)
    assert int((assigned.match >= 0).sum()) == MATCHES_PER_OBJECT
    assert assigned.usable[assigned.match >= 0].all()
    expected = head.losses(found, [target])["loss_cls"]
    for place, changes in ((11, False), (0, True)):  # of the first row
        logits = found.logits.clone()
        logits[0, place] += 1.0
        assert torch.equal(head.losses(found._replace(logits=logits), [target])["loss_cls"], expected) != changes


@pytest.mark.parametrize("kind", ["adap", "p2p"])
def test_two_processes_equal_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = narrow(kind).train()
    images, targets = batch()
    whole = total(model(images, targets))
    module = "p2p_loc.p2p_head" if kind == "p2p" else "p2p_loc.reppoints"
    counts: list[tuple[Tensor, ...]] = []

    def gather(*local: Tensor) -> tuple[Tensor, ...]:
        counts.append(local)
        return local

    def averaged(*_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.stack([a.float(), b.float()]).mean() for a, b in zip(*counts, strict=True))

    halves = [(images[i : i + 1], targets[i : i + 1]) for i in range(2)]
    monkeypatch.setattr(f"{module}.mean_over_processes", gather)
    for half in halves:
        model(*half)
    monkeypatch.setattr(f"{module}.mean_over_processes", averaged)
    parts = torch.stack([total(model(*half)) for half in halves])
    torch.testing.assert_close(parts.mean(), whole, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_losses() -> None:
    model = narrow("adap", channels=16, strides=(8, 16, 32)).train()
    images, targets = batch()
    targets = [{**targets[0], "size": (64, 64)}]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    series = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = total(model(images[:1, :, :64, :64], targets))
        loss.backward()
        optimizer.step()
        series.append(float(loss.detach()))
    assert series[-1] < 0.7 * series[0]


@pytest.mark.parametrize("kind", ["adap", "p2p"])
def test_bfloat16_and_channels_last_stay_near(kind: str) -> None:
    model = narrow(kind).train()
    images, targets = batch()
    exact = model(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images, targets)
    last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last), targets)
    for name, value in exact.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], value, rtol=0.1, atol=0.02)
        torch.testing.assert_close(last[name], value, rtol=1e-3, atol=1e-4)


def test_backbone_and_pyramid_are_one_graph() -> None:
    model = narrow("adap").eval()
    images = batch()[0]
    expected = model.extract(images)
    for ours, theirs in zip(torch.compile(model.extract, fullgraph=True, backend="eager")(images), expected):
        torch.testing.assert_close(ours, theirs)


def test_pretrained_goes_round(tmp_path: Path) -> None:
    model = narrow("adap", base_scale=3.0).eval()
    model.save_pretrained(tmp_path)
    again = RepPoints.from_pretrained(tmp_path)
    assert again.head.base_scale == 3.0
    (a, _), (b, _) = (m.candidates(batch()[0], [(96, 128), (90, 70)]) for m in (model, again))
    assert torch.equal(a.boxes, b.boxes)


def test_over_a_plain_transformer() -> None:
    options = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2, "out_channels": 16}
    model = RepPoints(1, "vit_tiny_patch16_224", frozen_stages=0, channels=32, backbone_options=options)
    losses = model.train()(torch.randn(1, 3, 64, 64), [{**batch()[1][1], "size": (64, 64)}])
    assert total(losses).isfinite()


@pytest.mark.parametrize(
    ("name", "kind", "strides", "base_scale"),
    [
        ("adap_reppoints", RepPoints, (4, 8, 16, 32, 64), 2.0),
        ("reppoints", RepPoints, (8, 16, 32, 64, 128), 4.0),
        ("p2p", P2PNet, 4, None),
    ],
)
def test_configurations(name: str, kind: type, strides: Any, base_scale: float | None) -> None:
    model = configuration(f"model={name}").model
    assert (model.pretrained, model.frozen_stages, model.norm) == (True, 1, "fixed_bn")
    with torch.device("meta"):
        network = build_localizer(model, 3, fresh=False)
    assert type(network) is kind
    head: Any = network.head
    found = (head.strides, head.base_scale) if isinstance(network, RepPoints) else (head.stride, None)
    assert found == (strides, base_scale)
    assert sum(not p.requires_grad for p in network.parameters()) == 33  # stem and first stage
    assert network.nms_iou == (0.2 if name == "p2p" else 0.5)


@pytest.mark.parametrize("strides", [(4, 16), (2, 4, 8), (64, 128)])
def test_strides_that_no_pyramid_has(strides: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"model\.strides: no pyramid has the strides"):
        RepPoints(1, **{**NARROW, "strides": strides})


def test_wrong_choices_are_named() -> None:
    with pytest.raises(InputError, match=r"model\.strides.*double a power of two"):
        RepPointsHead(1, 8, (4, 12))
    with pytest.raises(InputError, match=r"unknown transform 'box'.*use one of moment, minmax, partial_minmax"):
        RepPointsHead(1, 8, transform="box")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"unknown transform 'box'"):
        points_to_boxes(torch.zeros(1, 18), "box")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="moment_transfer"):
        points_to_boxes(torch.zeros(1, 18))


@pytest.mark.parametrize("transform", ["minmax", "partial_minmax"])
def test_boxes_without_moments(transform: Any) -> None:
    model = narrow("adap", transform=transform).train()
    assert not any("moment" in name for name in model.state_dict())
    assert total(model(*batch())).isfinite()


def test_every_object_has_five_predictions() -> None:
    generator = torch.Generator().manual_seed(0)
    points, goals = torch.rand(40, 2, generator=generator) * 64, torch.rand(3, 2, generator=generator) * 64
    logits, labels = torch.randn(40, 2, generator=generator), torch.tensor([0, 1, 1])
    match = match_predictions(logits, points, goals, labels)
    assert [int((match == i).sum()) for i in range(3)] == [MATCHES_PER_OBJECT] * 3
    few = match_predictions(logits[:8], points[:8], goals, labels)
    assert [int((few == i).sum()) for i in range(3)] == [2] * 3  # two of the eight are left, fewer than objects
    usable = torch.arange(40) < 8
    assert torch.equal(match_predictions(logits, points, goals, labels, usable)[:8], few)
    assert (match_predictions(logits, points, goals[:0], labels[:0]) == -1).all()


def test_anchors_of_points_are_in_strides() -> None:
    head = P2PHead(3, 8, stride=8, anchors=[(0.0, 0.0), (0.5, -0.25)])
    found = head(torch.zeros(2, 8, 2, 3))
    assert found.logits.shape == (2, 12, 3)
    assert found.locations[:4].tolist() == [[0.0, 0.0], [4.0, -2.0], [8.0, 0.0], [12.0, -2.0]]
    torch.testing.assert_close(found.points, found.locations.expand(2, -1, -1))


def test_p2p_candidates_are_those_that_survive() -> None:
    """So tiles that are joined have been through non-maximum suppression once; a second time changes nothing."""
    model = narrow("p2p", score_threshold=0.0).eval()
    assert isinstance(model, P2PNet)
    images, targets = batch()
    sizes = [target["size"] for target in targets]
    raw = model.head.candidates(model.head(model.extract(images)[0]), sizes)
    for before, after, found in zip(raw, model.candidates(images, sizes), model(images, targets), strict=True):
        assert len(after.boxes) < len(before.boxes) * model.num_classes
        assert (after.scores > 0).sum() == len(found["scores"])
        for name, value in model.detections(before).items():
            assert torch.equal(value, found[name])


def test_focal_loss_of_the_background() -> None:
    logits = torch.tensor([[0.0, 0.0]])
    background, first = (float(focal_loss(logits, torch.tensor([label]))) for label in (2, 0))
    assert background == pytest.approx(2 * 0.75 * 0.25 * 0.6931472)
    assert first == pytest.approx((0.75 + 0.25) * 0.25 * 0.6931472)
