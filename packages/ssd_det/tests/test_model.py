"""The whole detector: inputs and outputs, one process against two, checkpoints in the authors' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.multiprocessing as mp
from detectors import CLASSES, SIDE, batch, random_batch, small_detector, step_of_one_of_two, train_step

from ssd_det.assign import BACKGROUND, IGNORED, assign_by_iou, sample_matches
from ssd_det.draws import mask_at_most
from ssd_det.model import SSDDet
from ssd_det.official import from_official, to_official
from vireo.errors import InputError

FULL = {
    *("loss_spsd1", "loss_mil1", "loss_spsd2", "loss_mil2", "loss_negatives", "loss_sisd"),
    *("loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box"),
}


@pytest.mark.parametrize("neck_norm", ["gn", "none"])
def test_a_training_step_gives_every_loss_and_trains_every_parameter(neck_norm: str) -> None:
    model = small_detector(neck_norm=neck_norm)
    losses = train_step(model, *batch())
    assert set(losses) == FULL
    assert all(value.isfinite() and value > 0 for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_keyed_steps_repeat_and_other_keys_differ() -> None:
    model = small_detector()
    images, targets = batch()
    first, again = (train_step(model, images, targets) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = train_step(model, images, [{**t, "key": t["key"] + 1} for t in targets])
    assert not torch.equal(first["loss_negatives"], other["loss_negatives"])
    assert torch.equal(first["loss_mil1"], other["loss_mil1"])


def test_true_boxes_are_monitored_and_influence_nothing() -> None:
    model = small_detector()
    images, targets = batch()
    without = train_step(model, images, targets)
    gradient = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    true = [{**t, "true_boxes": t["boxes"] + 3} for t in targets]
    with_true = train_step(model, images, true)
    assert {name for name in with_true if name not in without} == {
        "stat_iou_given",
        "stat_iou_stage1",
        "stat_iou_refined",
    }
    assert all(torch.equal(value, with_true[name]) for name, value in without.items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradient, model.parameters()) if p.grad is not None)
    moved = train_step(model, images, [{**t, "true_boxes": t["boxes"] - 9} for t in targets])
    assert all(torch.equal(value, moved[name]) for name, value in without.items())
    assert 0 < float(with_true["stat_iou_given"]) < 1


def test_detector_trains_on_refined_boxes_and_the_plain_one_on_the_given() -> None:
    images, targets = batch()
    for options in ({}, {"refiner": None}):
        model = small_detector(**options)
        with (
            patch.object(model.rpn, "loss", wraps=model.rpn.loss) as rpn,
            patch.object(model.rcnn, "loss", wraps=model.rcnn.loss) as rcnn,
        ):
            train_step(model, images, targets)
        for boxes in (rpn.call_args.args[2], rcnn.call_args.args[2]):
            assert not any(b.requires_grad for b in boxes)
            same = [torch.equal(b, t["boxes"]) for b, t in zip(boxes, targets)]
            assert all(same) if options else not any(same)


@pytest.mark.parametrize("refiner", [{}, None])
def test_batch_without_any_box_trains_on_background(refiner: dict[str, Any] | None) -> None:
    model = small_detector() if refiner is not None else small_detector(refiner=None)
    losses = train_step(model, *batch(counts=(0, 0)))
    zero = {"loss_rpn_box", "loss_box"} | ({n for n in FULL if n in losses} - {"loss_rpn_cls", "loss_cls"})
    assert all(float(losses[name]) == 0 for name in zero)
    assert losses["loss_rpn_cls"] > 0
    assert losses["loss_cls"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_one_image_without_boxes() -> None:
    losses = train_step(small_detector(), *batch(counts=(3, 0)))
    assert set(losses) == FULL
    assert all(value.isfinite() and value > 0 for value in losses.values())


def test_crowd_boxes_are_left_out() -> None:
    model = small_detector()
    images, targets = batch()
    expected = train_step(model, images, targets)
    extra = torch.tensor([[5.0, 5, 80, 90]])
    crowded = [
        {
            **t,
            "boxes": torch.cat([extra, t["boxes"]]),
            "labels": torch.cat([torch.tensor([0]), t["labels"]]),
            "iscrowd": torch.tensor([True] + [False] * len(t["labels"])),
            "true_boxes": torch.cat([extra, t["boxes"]]),
        }
        for t in targets
    ]
    actual = train_step(model, images, crowded)
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())
    assert float(actual["stat_iou_given"]) == pytest.approx(1)


@torch.no_grad()
def test_detections_are_in_pixels_of_the_file() -> None:
    model = small_detector(box_score=0.0).eval()
    images, _, _, _ = random_batch()
    plain = model(images)
    resized = model(images, [{"size": (96, 96), "orig_size": (192, 48)}] * 2)
    for a, b in zip(plain, resized):
        assert 0 < len(a["boxes"]) <= 100
        assert set(a) == {"boxes", "scores", "labels"}
        assert torch.allclose(a["boxes"] * torch.tensor([0.5, 2, 0.5, 2]), b["boxes"], atol=1e-4)
        assert (a["scores"].diff() <= 0).all()
        assert ((a["labels"] >= 0) & (a["labels"] < CLASSES)).all()
        assert ((a["boxes"] >= 0) & (a["boxes"] <= SIDE)).all()
    (padded,) = model(images[:1], [{"size": (60, 80)}])
    assert padded["boxes"][:, 2].max() <= 80
    assert padded["boxes"][:, 3].max() <= 60


@torch.no_grad()
def test_refined_boxes_of_the_detector() -> None:
    model = small_detector().eval()
    images, targets = batch(counts=(3, 0))
    refined = model.refine(images, targets)
    assert [r["boxes"].shape for r in refined] == [(3, 4), (0, 4)]
    assert [r["scores"].shape for r in refined] == [(3,), (0,)]


def test_calls_that_cannot_work_say_so() -> None:
    model = small_detector(refiner=None)
    with pytest.raises(ValueError, match="training needs targets"):
        model.train()(random_batch()[0])
    with pytest.raises(ValueError, match="no refiner"):
        model.refine(*batch())


def test_two_processes_give_the_losses_and_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(step_of_one_of_two, (str(tmp_path),), nprocs=2)
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    model = small_detector()
    losses = train_step(model, *batch(counts=(3, 1)))
    assert torch.allclose(two["losses"], torch.stack([losses[name] for name in sorted(losses)]), rtol=1e-5, atol=0)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float((two["gradient"] - gradient).norm() / gradient.norm()) < 1e-5


def test_official_layout_round_trips() -> None:
    source, target = small_detector(seed=0), small_detector(seed=1)
    official = to_official(source.state_dict())
    assert all(key.split(".")[0] in ("backbone", "neck", "rpn_head", "roi_head") for key in official)
    left_out = from_official(target, {"meta": {"epoch": 12}, "state_dict": official})  # as mmdetection saves it
    assert left_out == [f"roi_head.bbox_head.{h}.{p}" for h in ("fc_distill_reg_re", "fc_objness") for p in _PARTS]
    expected, actual = source.state_dict(), target.state_dict()
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())
    assert from_official(target, to_official(source.state_dict(), unused_heads=False)) == []


_PARTS = ("weight", "bias")


def test_refiner_of_a_checkpoint_is_left_out_of_a_plain_detector() -> None:
    source, plain = small_detector(), small_detector(refiner=None, seed=1)
    left_out = from_official(plain, to_official(source.state_dict()))
    assert left_out
    assert all(key.startswith("roi_head.bbox_head.") for key in left_out)
    assert torch.equal(plain.rcnn.cls.weight, source.rcnn.cls.weight)


def test_unfit_checkpoint_is_refused_with_every_key_and_changes_nothing() -> None:
    model = small_detector()
    state = to_official(small_detector(seed=1).state_dict())
    del state["rpn_head.rpn_cls.bias"]
    state["roi_head.mask_head.weight"] = torch.zeros(1)
    state["roi_head.bbox_head1.fc_cls.weight"] = torch.zeros(81, 24)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        from_official(model, state)
    message = str(caught.value)
    assert "1 missing: rpn_head.rpn_cls.bias" in message
    assert "1 unexpected: roi_head.mask_head.weight" in message
    assert "1 misshaped: roi_head.bbox_head1.fc_cls.weight (81, 24) instead of (4, 24)" in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match="missing"):
        from_official(model, {})


def test_weights_round_trip_through_a_folder(tmp_path: Path) -> None:
    model = small_detector().eval()
    model.save_pretrained(tmp_path)
    again = SSDDet.from_pretrained(tmp_path)
    assert again.refiner is not None
    assert again.refiner.ratios == model.refiner.ratios
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def test_assignment_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    candidates = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 24, 10], [50, 50, 60, 60], [0, 0, 10, 4]])
    assert assign_by_iou(candidates, boxes, 0.7, 0.3).tolist() == [0, IGNORED, IGNORED, BACKGROUND, IGNORED]
    # the second box keeps its best candidate (IoU 0.4) although it is below the threshold
    assert assign_by_iou(candidates, boxes, 0.7, 0.3, 0.3).tolist() == [0, IGNORED, 1, BACKGROUND, IGNORED]
    assert assign_by_iou(candidates, boxes, 0.7, 0.3, 0.5).tolist() == [0, IGNORED, IGNORED, BACKGROUND, IGNORED]
    usable = torch.tensor([False, True, True, True, True])
    assert assign_by_iou(candidates, boxes, 0.7, 0.3, 0.3, usable).tolist() == [IGNORED, 0, 1, BACKGROUND, IGNORED]
    assert assign_by_iou(candidates, boxes[:0], 0.7, 0.3).tolist() == [BACKGROUND] * 5
    # a tie: all candidates of the box's best IoU; where two boxes claim one, the later has it
    twins = torch.tensor([[0.0, 0, 10, 4], [0, 6, 10, 10]])
    assert assign_by_iou(twins, boxes[:1], 0.7, 0.3, 0.3).tolist() == [0, 0]
    assert assign_by_iou(boxes[:1], boxes[:1].repeat(2, 1), 0.7, 0.3, 0.3).tolist() == [1]


def test_samples_are_the_lowest_priorities_up_to_the_limits() -> None:
    match = torch.tensor([[0, 1, 2, BACKGROUND, BACKGROUND, IGNORED], [BACKGROUND] * 6])
    priority = torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.2, 0.0], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    positive, negative = sample_matches(match, 4, 0.5, priority)
    assert positive.tolist() == [[False, True, True, False, False, False], [False] * 6]
    assert negative.tolist() == [[False] * 3 + [True, True, False], [False, False, True, True, True, True]]
    assert mask_at_most(match >= 0, 0, priority).sum() == 0


def test_a_batch_without_boxes_logs_the_same_entries_as_any_other() -> None:
    """Processes exchange what they log, so the names must not depend on what a process has got."""
    model = small_detector().train()
    images, boxes, labels, _ = random_batch()
    full = [{"boxes": b, "labels": lb, "true_boxes": b} for b, lb in zip(boxes, labels)]
    empty = [{name: value[:0] for name, value in target.items()} for target in full]
    assert list(model(images, empty)) == list(model(images, full))
