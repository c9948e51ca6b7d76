"""OA-MIL: the selection loss and the mixed targets by hand, the epochs, and the corner coder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectors import features, random_batch, small_detector
from omegaconf import OmegaConf
from torch import Tensor

from ssd_det.boxes import BoxCoder, decode_corners, encode_corners
from ssd_det.draws import TorchDraws
from ssd_det.oamil import OAMILDet, mixed_targets, selection_score
from vireo.errors import InputError


def oa_mil(**options: Any) -> OAMILDet:
    return small_detector(OAMILDet, **options)


def test_selection_score_is_the_mean_over_classes_of_the_mean_over_objects_of_the_best() -> None:
    scores = torch.tensor([0.2, 0.6, 0.5, 0.1, 0.9], requires_grad=True)
    objects = torch.tensor([0, 0, 1, 2, 2])
    labels = torch.tensor([4, 4, 1, 7])  # the last object has no instance
    score = selection_score(scores, objects, labels)
    assert float(score.detach()) == pytest.approx(((0.6 + 0.5) / 2 + 0.9) / 2)
    (gradient,) = torch.autograd.grad(score, scores)
    assert torch.allclose(gradient, torch.tensor([0, 0.25, 0.25, 0, 0.5]))


def test_selection_score_without_instances_is_zero() -> None:
    none = torch.zeros(0)
    assert float(selection_score(none, none.long(), torch.tensor([1, 2]))) == 0
    assert float(selection_score(none, none.long(), torch.zeros(0, dtype=torch.long))) == 0


def test_mixed_targets_follow_the_best_instance_by_its_confidence() -> None:
    noisy = torch.tensor([[10.0, 10, 20, 20], [0, 0, 8, 8], [5, 5, 9, 9]])
    instances = torch.tensor([[11.0, 11, 21, 21], [12, 12, 22, 22], [-4, -2, 10, 10]])
    scores, objects = torch.tensor([0.3, 0.8, 1.0]), torch.tensor([0, 0, 1])
    mixed = mixed_targets(instances, scores, objects, noisy)
    phi = 0.8**7.5
    assert torch.allclose(mixed[0], phi * instances[1] + (1 - phi) * noisy[0])
    capped = 0.85 * torch.tensor([0.0, 0, 10, 10]) + 0.15 * noisy[1]  # 1.0 ** 7.5 exceeds the cap; clamped at 0
    assert torch.allclose(mixed[1], capped)
    assert torch.equal(mixed[2], noisy[2])  # no instance


@pytest.mark.parametrize("extension", ["refine", "repeat"])
def test_selection_loss_of_several_passes(extension: str) -> None:
    model = oa_mil(extension=extension, selection_weight=0.1)
    scores = [torch.tensor(s) for s in (0.2, 0.4, 0.5, 0.6, 0.7)]
    expected = 0.1 * ((1 - 0.2) + (1 - 0.55)) if extension == "refine" else 0.1 * (1 - 0.48)
    assert float(model._selection_loss(scores)) == pytest.approx(expected)
    assert float(model._selection_loss(scores[:1])) == pytest.approx(0.1 * 0.8)


def rcnn_losses(model: OAMILDet, epoch: int, seed: int = 0) -> dict[str, Tensor]:
    model.set_epoch(epoch)
    _, boxes, labels, _ = random_batch(seed)
    proposals = [torch.cat([b + 1, b - 2]) for b in boxes]
    return model.rcnn_losses(features(model), proposals, boxes, labels, TorchDraws(torch.Generator().manual_seed(0)))


def test_epochs_of_selection_and_extension() -> None:
    model = oa_mil(selection_epoch=2, extension_epoch=9)
    passes: list[int] = []
    model.rcnn.register_forward_hook(lambda *_: passes.append(0))
    counts, losses = [], []
    for epoch in (0, 1, 7, 8):
        passes.clear()
        losses.append(rcnn_losses(model, epoch))
        counts.append(len(passes))
    assert counts == [2, 2, 2, 6]  # samples, instances, from epoch 9 (counted from 1) four extensions
    assert torch.equal(losses[1]["loss_oa_mil"], losses[2]["loss_oa_mil"])
    assert not torch.equal(losses[2]["loss_oa_mil"], losses[3]["loss_oa_mil"])


def test_targets_move_from_the_second_epoch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = oa_mil()
    seen: list[list[Tensor]] = []
    original = model.rcnn.loss_of_samples

    def noted(*arguments: Any) -> dict[str, Tensor]:
        seen.append(arguments[4])
        return original(*arguments)

    monkeypatch.setattr(model.rcnn, "loss_of_samples", noted)
    torch.nn.init.constant_(model.rcnn.cls.bias, -6.0)
    with torch.no_grad():
        model.rcnn.cls.bias[1] = 6.0  # certain of class 1
    rcnn_losses(model, 0)
    rcnn_losses(model, 1)
    _, boxes, labels, _ = random_batch(0)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], boxes))
    for before, after, label in zip(boxes, seen[1], labels):
        moved = (before - after).abs().amax(1)
        assert (moved[label == 1] > 0.01).all()
        assert (moved[label != 1] < 1e-4).all()
    assert not any(b.requires_grad for b in seen[1])


def test_repeat_and_refine_differ() -> None:
    refine, repeat = (oa_mil(extension=e) for e in ("refine", "repeat"))
    repeat.load_state_dict(refine.state_dict())
    a, b = rcnn_losses(refine, 8), rcnn_losses(repeat, 8)
    assert torch.equal(a["loss_cls"], b["loss_cls"])
    assert not torch.isclose(a["loss_oa_mil"], b["loss_oa_mil"], rtol=0.2)


def test_a_step_trains_every_parameter_and_no_box_gives_no_loss() -> None:
    model = oa_mil().train()
    model.set_epoch(8)
    images, boxes, labels, _ = random_batch(0)
    losses = model(images, [{"boxes": b, "labels": c} for b, c in zip(boxes, labels)])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "loss_oa_mil"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())

    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}] * 2
    losses = model(images, empty)
    assert float(losses["loss_oa_mil"].detach()) == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_evaluation_is_plain_faster_rcnn_and_weights_round_trip(tmp_path: Path) -> None:
    model = oa_mil(box_score=0.0, selection_weight=0.01).eval()
    plain = small_detector(refiner=None, box_score=0.0).eval()
    plain.load_state_dict(model.state_dict())
    images = random_batch(0)[0]
    model.save_pretrained(tmp_path)
    again = OAMILDet.from_pretrained(tmp_path)
    assert again.selection_weight == 0.01
    for a, b, c in zip(model(images), plain(images), again(images)):
        assert len(a["boxes"]) > 0
        assert all(torch.equal(a[key], b[key]) and torch.equal(a[key], c[key]) for key in a)


def test_unfit_settings() -> None:
    with pytest.raises(InputError, match="refine or repeat"):
        oa_mil(extension="random")
    with pytest.raises(InputError, match="no refiner"):
        oa_mil(refiner={})
    with pytest.raises(InputError, match="delta or corner"):
        oa_mil(rpn_options={"box_coder": "centre"})
    with pytest.raises(InputError, match="gn or none"):
        oa_mil(neck_norm="bn")


def test_configuration_builds_it_and_refuses_a_refiner() -> None:
    from ssd_det.build import build_model

    model = OmegaConf.create({"oa_mil": {"extension": "refine"}, "fpn_channels": 8, "hidden": 8})
    plain, refiner = OmegaConf.create({"enabled": False, "sisd": True}), OmegaConf.create({"enabled": True})
    with torch.device("meta"):
        assert isinstance(build_model(model, plain, 3), OAMILDet)
    with pytest.raises(InputError, match="refiner=none"):
        build_model(model, refiner, 3)


def test_corner_coder_by_hand_and_inverse() -> None:
    reference = torch.tensor([[10.0, 20, 30, 60]])
    target = torch.tensor([[12.0, 16, 34, 70]])
    stds = (0.1, 0.1, 0.1, 0.1)
    offsets = encode_corners(reference, target, stds)
    assert torch.allclose(offsets, torch.tensor([[1.0, -1.0, 2.0, 2.5]]))
    assert torch.allclose(decode_corners(reference, offsets, stds), target)
    coder = BoxCoder("corner", stds)
    assert torch.equal(coder.encode(reference, target), offsets)
    assert torch.equal(
        coder.decode(reference[:, None], offsets[:, None])[:, 0], decode_corners(reference, offsets, stds)
    )
