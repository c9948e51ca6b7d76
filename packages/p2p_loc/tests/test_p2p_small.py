"""The small network: who is positive, what is regressed, and what comes out."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from p2p_loc import SmallLocalizer
from p2p_loc.small import nearest_label

BOXES = torch.tensor([[2.0, 4.0, 10.0, 20.0], [8.0, 8.0, 12.0, 16.0]])  # centres (6, 12) and (10, 12)


def test_places_within_reach_belong_to_the_nearest_label() -> None:
    places = torch.tensor([[6.0, 12.0], [2.0, 8.0], [1.9, 12.0], [8.0, 12.0], [10.0, 16.0], [10.0, 16.1], [14.0, 12.0]])
    assert nearest_label(places, BOXES).tolist() == [0, 0, -1, 0, 0, -1, 1]  # of two at one distance the first
    assert nearest_label(places, BOXES[:0]).tolist() == [-1] * 7


def test_losses_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    network = SmallLocalizer(2, widths=(4, 8)).train()
    images = torch.randn(2, 3, 32, 32)
    targets = [
        {"boxes": BOXES, "labels": torch.tensor([1, 0]), "size": (32, 32)},
        {"boxes": BOXES[:0], "labels": torch.zeros(0, dtype=torch.long), "size": (32, 32)},
    ]
    losses = network(images, targets)
    logits, offsets, places = network.raw(images)
    wanted, box_loss, positives = torch.zeros_like(logits), torch.zeros(()), 0
    for p, (x, y) in enumerate(places.tolist()):
        distances = [max(abs(x - cx), abs(y - cy)) for cx, cy in ((6, 12), (10, 12))]
        if min(distances) > 4:
            continue
        owner = distances.index(min(distances))
        wanted[0, p, [1, 0][owner]] = 1
        cx, w, h = ((6, 8, 16), (10, 4, 8))[owner]
        goal = torch.tensor([(cx - x) / 8, (12 - y) / 8, math.log(w / 16), math.log(h / 16)])
        error = (offsets[0, p] - goal).abs()
        box_loss = box_loss + torch.where(error < 1, 0.5 * error**2, error - 0.5).sum()
        positives += 1
    assert positives >= 4
    focal = sigmoid_focal_loss(logits, wanted, 0.25, 2.0, "sum")
    torch.testing.assert_close(losses["loss_cls"], focal / positives)
    torch.testing.assert_close(losses["loss_box"], box_loss / positives)


def test_pictures_without_any_label_train_too() -> None:
    network = SmallLocalizer(1, widths=(4, 4)).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "size": (32, 32)}
    losses = network(torch.randn(1, 3, 32, 32), [empty])
    sum(losses.values()).backward()
    assert losses["loss_box"].item() == 0
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_detections_lie_inside_the_image_and_are_sorted(num_classes: int) -> None:
    torch.manual_seed(1)
    network = SmallLocalizer(num_classes, widths=(4, 8), score_threshold=0.0, max_detections=20).eval()
    images = torch.randn(2, 3, 64, 64)
    sizes = [(40, 64), (64, 50)]
    found = network(images, [{"size": size} for size in sizes])
    for one, (height, width) in zip(found, sizes):
        assert 0 < len(one["scores"]) <= 20
        assert (one["scores"].diff() <= 0).all()
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"][:, [0, 2]] <= width).all()
        assert (one["boxes"][:, [1, 3]] <= height).all()
        assert set(one["labels"].tolist()) <= set(range(num_classes))
    candidates = network.candidates(images, sizes)
    # a place for each 4 x 4 pixels with its centre inside
    assert [len(c.boxes) for c in candidates] == [10 * 16, 16 * 12]
    assert candidates[0].scores.shape == (160, num_classes)


def test_first_scores_are_a_hundredth() -> None:
    network = SmallLocalizer(1).eval()
    scores = network.candidates(torch.zeros(1, 3, 32, 32), [(32, 32)])[0].scores
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01), atol=2e-3, rtol=0)


def test_places_beyond_the_image_are_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SmallLocalizer(1, widths=(4, 4)).train()
    outputs = network.raw(torch.randn(1, 3, 32, 64))
    targets = [{"boxes": torch.tensor([[24.0, 8.0, 36.0, 18.0]]), "labels": torch.tensor([0]), "size": (30, 30)}]

    def losses(change: float, place: float) -> list[float]:
        logits, offsets, places = outputs
        here = (places[:, 0] == place)[None, :, None]
        changed = logits + change * here, offsets + change * here, places
        monkeypatch.setattr(network, "raw", lambda _: changed)
        return [float(loss.detach()) for loss in network(torch.zeros(1), targets).values()]

    assert losses(1.0, 34.0) == losses(1.0, 62.0) == losses(0.0, 34.0)  # the label reaches 34, in the padding
    assert losses(1.0, 30.0) == losses(0.0, 30.0)  # the first place beyond the image
    assert all(a != b for a, b in zip(losses(1.0, 26.0), losses(0.0, 26.0)))
