"""Losses of segmentation: reference numbers, alignment, labels that do not count, mistakes."""

from __future__ import annotations

import pytest
import torch
from g2sd_golden import FORWARD, LOSS, close, load, tensor
from torch import Tensor

from g2sd.divergence import ChannelWiseDivergence, PixelDivergence, build_divergence
from vireo.errors import InputError
from vireo.evaluation import SegmentationScore
from vireo.segmentation import segmentation_loss
from vireo.testing import fill_state_dict

SHAPE = (2, 7, 5, 6)


def scores() -> tuple[Tensor, Tensor]:
    return tensor("input.seg_s", SHAPE, 0) * 2, tensor("input.seg_t", SHAPE, 0) * 3


@pytest.mark.parametrize(
    ("name", "kind", "tau", "weight"),
    [
        ("cwd_t1_w3", "cwd", 1, 3),
        ("cwd_t4_w10", "cwd", 4, 10),
        ("kl_t1_w10", "kl", 1, 10),
        ("kl_t2_w3", "kl", 2, 3),
    ],
)
def test_divergence(name: str, kind: str, tau: float, weight: float) -> None:
    expected = load("seg_losses")
    student, teacher = scores()
    student.requires_grad_()
    loss = build_divergence(kind, weight, tau)(student, teacher)
    loss.backward()
    close(loss, expected[name], LOSS, 0)
    assert student.grad is not None
    close(student.grad, expected[f"{name}_grad"], FORWARD, 1e-6)


def test_other_numbers_of_classes() -> None:
    expected = load("seg_losses")
    student, teacher = scores()
    divergence = ChannelWiseDivergence(weight=1.0, in_channels=4, out_channels=7)
    state = divergence.state_dict()
    assert set(state) == {"align.weight", "align.bias"}
    fill_state_dict(state, 0)
    loss = divergence(student[:, :4], teacher)
    close(loss, expected["cwd_align"], LOSS, 0)
    loss.backward()
    assert divergence.align is not None
    assert divergence.align.weight.grad is not None
    assert ChannelWiseDivergence(in_channels=7, out_channels=7).align is None


def test_task_loss() -> None:
    expected = load("seg_losses")
    student, _ = scores()
    labels = expected["labels"]
    close(0.4 * segmentation_loss(student, labels), expected["ce"], LOSS, 0)
    counted = (labels != 255).float().mean()
    close(0.4 * segmentation_loss(student, labels) / counted, expected["ce_mean_over_valid"], LOSS, 0)
    found = student.argmax(1)
    close(100 * (found == labels).float().mean()[None], expected["acc"], LOSS, 0)


def test_mean_iou() -> None:
    expected = load("seg_losses")
    score = SegmentationScore([str(i) for i in range(7)])
    for i in range(3):
        found, labels = (
            (tensor(f"input.miou_{name}{i}", (40, 50), 0).abs() * 1000).to(torch.int64) % classes
            for name, classes in (("pred", 7), ("gt", 8))
        )
        labels[:20] = found[:20] + 1
        reduced = torch.where(labels == 0, 255, labels - 1)
        score.update(found.to(torch.uint8), reduced.to(torch.uint8))
    metrics = score.compute()
    assert metrics["mIoU"] == pytest.approx(float(expected["miou"]), rel=1e-6)
    assert metrics["aAcc"] == pytest.approx(float(expected["miou_aAcc"]), rel=1e-6)


def test_labels_that_do_not_count() -> None:
    """A crop without annotation: no task loss, and no gradient of it; the teacher still teaches there."""
    student, teacher = scores()
    student.requires_grad_()
    loss = segmentation_loss(student, torch.full((2, 20, 24), 255, dtype=torch.uint8))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, student)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(ChannelWiseDivergence()(student, teacher), student)
    assert gradient.any()


def test_least_where_the_student_is_the_teacher() -> None:
    _, teacher = scores()
    for divergence in (ChannelWiseDivergence(), PixelDivergence()):
        student = teacher.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(divergence(student, teacher), student)
        close(gradient, torch.zeros(SHAPE), 0, 1e-6)
    close(PixelDivergence()(teacher, teacher), torch.tensor(0.0), 0, 1e-6)


def test_flat_scores() -> None:
    """Up to the weight times the logarithm of the number of places."""
    loss = ChannelWiseDivergence(weight=3.0)(torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16))
    close(loss, 3 * torch.tensor(256.0).log(), LOSS, 0)


def test_mistakes() -> None:
    student, teacher = scores()
    for kind, weight, tau, message in [
        ("l2", 3, 1, "unknown divergence 'l2'"),
        ("cwd", -1, 1, "weight of -1"),
        ("kl", 3, 0, "temperature of 0"),
    ]:
        with pytest.raises(InputError, match=message):
            build_divergence(kind, weight, tau)
    with pytest.raises(InputError, match="equal patch size and classes"):
        ChannelWiseDivergence()(student[:, :4], teacher)
    with pytest.raises(InputError, match="equal patch size"):
        PixelDivergence()(student[..., :3], teacher)
