"""Reference numbers of the coder, the samplers, the selection and each refiner loss."""

from __future__ import annotations

import pytest
import torch
from golden_case import close, load, split, tensor
from torch import Tensor

from ssd_det.bags import (
    RATIOS,
    RATIOS_LOW_NOISE,
    SHAKES,
    SHAKES_LOW_NOISE,
    instance_scores,
    neighborhood_proposals,
    normalized_iou_scores,
    random_negatives,
    select_and_merge,
)
from ssd_det.boxes import ROI_STDS, RPN_STDS, clip_boxes, decode_boxes, elementwise_iou, encode_boxes
from ssd_det.losses import mil_bag_loss, negative_loss, sisd_loss, spsd_loss


def test_golden_box_codec() -> None:
    case = load("box_codec")
    size = torch.tensor([300.0, 400.0])
    for kind, stds in (("roi", ROI_STDS), ("rpn", RPN_STDS)):
        close(encode_boxes(case["boxes"], case["targets"], stds), case[f"encode_{kind}"])
        decoded = decode_boxes(case["boxes"], case["deltas"], stds)
        if kind == "roi":
            close(decoded, case["decode_roi"])
        close(clip_boxes(decoded, size), case[f"decode_{kind}_clip"])


@pytest.mark.parametrize(
    ("name", "ratios", "shakes"),
    [("sampler_coco", RATIOS, SHAKES), ("sampler_voc_low", RATIOS_LOW_NOISE, SHAKES_LOW_NOISE)],
)
def test_golden_sampler(name: str, ratios: tuple[float, ...], shakes: tuple[float, ...]) -> None:
    case = load(name)
    image = torch.arange(len(case["n"])).repeat_interleave(case["n"])
    proposals, valid = neighborhood_proposals(case["gts"], case["shapes_hw"][image], ratios, shakes)
    close(proposals.flatten(0, 1), case["proposals"])
    assert torch.equal(valid.flatten(), case["valid"])

    boxes, keep = random_negatives(case["shapes_hw"], proposals, image, 500, 0.3, case["uniform"])
    close(boxes, case["neg_boxes"])
    assert torch.equal(keep, case["neg_keep"])


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


def test_golden_refiner_losses() -> None:
    case = load("refiner_losses")
    seed, bags, size = 8, 6, 45

    def given(name: str, *shape: int, factor: float = 1.0) -> Tensor:
        return (tensor(f"input.{name}", shape, seed) * factor).requires_grad_()

    labels, valid0 = case["labels"], case["valid0"][..., 0]
    cls0, ins0 = given("cls0", bags, size, 21, factor=2), given("ins0", bags, size, 21, factor=2)
    reg, goal = given("reg", bags, size, 4), given("reg_target", bags, size, 4).detach()

    def regression(offsets: Tensor, weight: Tensor | None) -> Tensor:
        # the case gives regression targets directly: a unit box whose encoding is the target
        unit = torch.tensor([-0.5, -0.5, 0.5, 0.5]).expand(bags * size, 1, 4)
        reached = decode_boxes(unit[:, 0], goal.reshape(-1, 4), ROI_STDS)
        weight = None if weight is None else weight.repeat_interleave(size)
        return 0.25 * spsd_loss(offsets.reshape(-1, 1, 4), unit, reached, weight)

    mil0 = 0.25 * mil_bag_loss(cls0.softmax(-1), ins0, labels, valid0, kind="bce")
    box0 = regression(reg, case["retrain_weight"])
    close(mil0.detach(), case["s0_loss_instance_mil"])
    close(box0.detach(), case["s0_loss_bbox"])
    grad_cls, grad_ins, grad_reg = gradients(mil0 + box0, cls0, ins0, reg)
    close(grad_cls[:4, ::3], case["s0_grad_cls"])
    close(grad_ins[:4, ::3], case["s0_grad_ins"])
    close(grad_reg[:, ::5], case["s0_grad_reg"])

    cls1, ins1 = given("cls1", bags, size, 20, factor=2), given("ins1", bags, size, 20, factor=2)
    neg, weight = given("neg_cls", 120, 20, factor=2), case["cascade_weight"]
    mil1 = 0.25 * mil_bag_loss(cls1.sigmoid(), ins1, labels, torch.ones(bags, size), weight, "focal")
    background = 0.75 * weight.mean() * negative_loss(neg.sigmoid(), case["neg_keep"], bags)
    close(mil1.detach(), case["s1_loss_instance_mil"])
    close(background.detach(), case["s1_neg_loss"])
    grad_cls, grad_ins, grad_neg = gradients(mil1 + background, cls1, ins1, neg)
    close(grad_cls[:4, ::3], case["s1_grad_cls"])
    close(grad_ins[:4, ::3], case["s1_grad_ins"])
    close(grad_neg[::7], case["s1_grad_neg"])

    ori = given("reg_ori", bags * size, 4)
    spsd = regression(ori, None)
    close(spsd.detach(), case["spsd1_loss_bbox"])
    close(gradients(spsd, ori)[0][::9], case["spsd1_grad"])

    # a unit square against a strip of height h inside it has IoU h
    iou = case["sisd_iou_target"].reshape(bags, size)
    strips = torch.zeros(bags, size, 4)
    strips[..., 2], strips[..., 3] = 1, iou
    score = given("iou_score", bags, size, 1)
    sisd = 5.0 * sisd_loss(score[..., 0], strips, torch.tensor([0.0, 0, 1, 1]).expand(bags, 4))
    close(sisd.detach(), case["sisd_loss_iou"])
    close(gradients(sisd, score)[0][..., 0], case["sisd_grad"])


def test_golden_refiner_losses_bag_accuracy() -> None:
    """The case's bag accuracies follow from the bag probabilities that the losses use."""
    case = load("refiner_losses")
    labels = case["labels"]
    cls0, ins0 = (tensor(f"input.{n}", (6, 45, 21), 8) * 2 for n in ("cls0", "ins0"))
    prob0 = (cls0.softmax(-1) * instance_scores(ins0, case["valid0"][..., 0])).sum(1)
    cls1, ins1 = (tensor(f"input.{n}", (6, 45, 20), 8) * 2 for n in ("cls1", "ins1"))
    prob1 = (cls1.sigmoid() * instance_scores(ins1, torch.ones(6, 45))).sum(1)
    for stage, prob in (("s0", prob0), ("s1", prob1)):
        close(100 * (prob.argmax(1) == labels).float().mean(), case[f"{stage}_bag_acc"])


def test_golden_select_merge() -> None:
    case = load("select_merge")
    seed, labels = 9, case["labels"]
    image = torch.arange(2).repeat_interleave(case["n"])
    sizes = case["shapes_hw"][image].float()
    proposals = case["proposals"].view(7, 45, 4)
    ones = torch.ones(7, 45)

    def given(name: str, channels: int, factor: float = 2.0) -> Tensor:
        return tensor(f"input.{name}", (7, 45, channels), seed) * factor

    def weights(prob: Tensor, ins: Tensor, valid: Tensor, iou: Tensor | None = None) -> Tensor:
        joint = (prob * valid[..., None] * instance_scores(ins, valid))[torch.arange(7), :, labels]
        return joint if iou is None else joint * normalized_iou_scores(iou)

    valid = case["valid"][..., 0]
    prob, ins = given("cbp.cls", 21).softmax(-1), given("cbp.ins", 21)
    boxes, score = select_and_merge(prob, ins, valid, labels, proposals, 7, image_sizes=sizes)
    close(boxes, case["cbp_pseudo"])
    close(weights(prob, ins, valid), case["cbp_weight"])
    close(score, case["cbp_weight"].sum(1))
    check_mean_ious(boxes, case, "cbp")

    prob, ins = given("pbr.cls", 20).sigmoid(), given("pbr.ins", 20)
    boxes, score = select_and_merge(prob, ins, ones, labels, proposals, 7, image_sizes=sizes)
    close(boxes, case["pbr_pseudo"])
    close(weights(prob, ins, ones), case["pbr_weight"])
    close(score, case["pbr_weight"].sum(1))
    check_mean_ious(boxes, case, "pbr")

    prob, ins = given("pbr_iou.cls", 20).sigmoid(), given("pbr_iou.ins", 20)
    iou = given("pbr_iou.iou", 1, 1.0)[..., 0]
    boxes, score = select_and_merge(prob, ins, ones, labels, proposals, 7, iou_score=iou)
    close(boxes, case["pbr_iou_pseudo"])
    close(weights(prob, ins, ones, iou), case["pbr_iou_weight"])
    close(score, case["pbr_iou_weight"].sum(1))
    check_mean_ious(boxes, case, "pbr_iou")


def check_mean_ious(boxes: Tensor, case: dict[str, Tensor], mode: str) -> None:
    iou = elementwise_iou(boxes, case["gts"])
    area = (case["gts"][:, 2] - case["gts"][:, 0]) * (case["gts"][:, 3] - case["gts"][:, 1])
    for i, (low, high) in enumerate([(0, 32**2), (32**2, 64**2), (64**2, 128**2), (128**2, 1e10)]):
        chosen = (area >= low) & (area < high)
        expected = case[f"{mode}_mean_ious"][i]
        close(iou[chosen].mean() if chosen.any() else torch.zeros(()), expected)
    close(iou.mean(), case[f"{mode}_mean_ious"][4])
    assert sum(len(part) for part in split(case, "gts")) == len(iou)
