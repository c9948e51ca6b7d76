"""Reference numbers of detection: imitation, schedule, parameter groups, the whole ViTDet detector and its losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from g2sd_golden import (
    FORWARD,
    GRADIENT_NORM,
    LOSS,
    TABLE,
    close,
    fill_state_dict,
    filled,
    keys,
    load,
    load_json,
    load_names,
    sampled,
    tensor,
)
from hydra import compose, initialize_config_module
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from g2sd.detection import detection_groups
from g2sd.detector import vitdet_rcnn
from g2sd.distilled_detector import DetectionTeacher, DistilledDetector
from g2sd.imitation import ObjectnessWeightedImitation
from g2sd.official_detector import from_official, official_name, to_official
from g2sd.teacher import FrozenTeacher
from g2sd.vitdet import ViTDet
from vireo.engine import build_schedule

SCORES = 1e-3  # of boxes and masks: absolute
STUDENT = "mask_rcnn_vitdet_s_student"
LEVELS = range(2, 7)


def imitation_inputs() -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    def maps(name: str, channels: int) -> list[Tensor]:
        return [tensor(f"input.{name}.p{level}", (2, channels, 64 >> level, 64 >> level)) for level in LEVELS]

    return (
        [x.requires_grad_() for x in maps("stu", 8)],
        maps("tea", 8),
        [(2 * x).requires_grad_() for x in maps("stu_logit", 3)],
        [2 * x - 1 for x in maps("tea_logit", 3)],
    )


def test_imitation() -> None:
    case = load("det_frs_loss")
    module = ObjectnessWeightedImitation(8)
    module.load_state_dict(fill_state_dict(module.state_dict()))
    inputs = imitation_inputs()
    for logits in inputs[2]:
        logits.retain_grad()
    for iteration, suffix in ((0, "_it0"), (100, "_it100"), (499, "_it499"), (500, "_it500"), (1000, "")):
        losses = module(*inputs, iteration)
        close(losses.features, case[f"feat_loss{suffix}"], LOSS, 1e-9)
        close(losses.objectness, case[f"cls_loss{suffix}"], LOSS, 1e-9)
    sum(losses).backward()
    sampled(case, "adapted_p4", module.adapted(inputs[0])[2])
    gradients = {"grad_stu_p2": inputs[0][0], "grad_stu_p6": inputs[0][4], "grad_logit_p3": inputs[2][1]}
    for name, x in {**gradients, "grad_adapter_0": module.conv[0].weight}.items():
        assert x.grad is not None
        sampled(case, name, x.grad, GRADIENT_NORM, 1e-7)


def network(state: dict[str, Tensor] | None = None, **sizes: Any) -> DistilledDetector:
    """The reference network at 256 pixels, without drop path; the teacher's without imitation."""
    with torch.device("meta"):
        body = ViTDet(256, **sizes)
        model = DistilledDetector(vitdet_rcnn(body, 80), ObjectnessWeightedImitation() if state else None)
    model = model.to_empty(device="cpu")
    if state is None:
        state = fill_state_dict(to_official(model), seed=1)
    model.load_state_dict(from_official(state, "reference"))
    return model


@pytest.fixture(scope="module")
def student() -> DistilledDetector:
    return network(filled(STUDENT)).eval()


def images() -> list[Tensor]:
    """In [0, 1], as our detectors take them."""
    sizes = ((256, 224), (192, 256))
    return [(tensor(f"input.image.{i}", (3, *size)) * 50 + 120) / 255 for i, size in enumerate(sizes)]


def test_names_and_shapes(student: DistilledDetector) -> None:
    expected = {key: shape for key, (shape, _) in keys(STUDENT).items()}
    assert {key: tuple(value.shape) for key, value in to_official(student).items()} == expected
    case = load("maskrcnn_vitdet_s256")
    assert sum(p.numel() for p in student.parameters()) == int(case["n_params"])
    assert sum(p.numel() for p in student.detector.parameters()) == int(case["n_params_no_adapter"])


@torch.no_grad()
def test_detector(student: DistilledDetector) -> None:
    case = load("maskrcnn_vitdet_s256")
    detector = student.detector
    batch, sizes, _ = student.prepare(images())
    sampled(case, "preprocessed", batch)
    sampled(case, "vit_last_feat", detector.backbone.body(batch))
    maps = detector.backbone(batch)
    logits, deltas = detector.rpn.head(list(maps.values()))
    for level, features, objectness, shifts in zip(LEVELS, maps.values(), logits, deltas):
        sampled(case, f"feat_p{level}", features)
        sampled(case, f"rpn_logit_p{level}", objectness)
        sampled(case, f"rpn_delta_p{level}", shifts)

    boxes, _, _ = detector.rpn.propose(ImageList(batch, sizes), maps)
    for i, found in enumerate(boxes):
        assert len(found) == int(case[f"proposals_{i}_count"])
        close(found[:20], case[f"proposals_{i}_boxes_top20"], FORWARD, SCORES)

    heads = detector.roi_heads
    given = [torch.tensor([[4.0, 6, 40, 50], [10, 20, 120, 100], [0, 0, 200, 180], [30, 30, 36, 38]])] * 2
    pooled = heads.box_roi_pool(maps, given, sizes)
    sampled(case, "box_pooled", pooled)
    hidden = heads.box_head(pooled)
    sampled(case, "box_head_fc", hidden)
    scores, shifts = heads.box_predictor(hidden)
    sampled(case, "box_scores", scores.roll(-1, 1), atol=SCORES)
    sampled(case, "box_deltas", shifts[:, 4:])
    masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(maps, given, sizes)))
    sampled(case, "mask_logits", masks[:, 1:], atol=SCORES)

    found, _ = heads(maps, boxes, sizes)
    for i, detected in enumerate(found):
        assert len(detected["scores"]) == int(case[f"det_{i}_count"])
        close(detected["boxes"][:20], case[f"det_{i}_boxes_top20"], FORWARD, SCORES)
        close(detected["scores"][:20], case[f"det_{i}_scores_top20"], FORWARD, SCORES)
        assert torch.equal(detected["labels"][:20] - 1, case[f"det_{i}_classes_top20"].long())
        sampled(case, f"det_{i}_masks_top5", detected["masks"][:5], atol=SCORES)


def diamonds(masks: Tensor, regions: Tensor, matches: Tensor, side: int) -> Tensor:
    """Mask targets as the reference draws them: polygons, scaled to the region. Here ``masks`` are boxes."""
    from faster_coco_eval import mask as coco_mask

    drawn = []
    for region, box in zip(regions, masks[matches].flatten(1)[:, :4].double()):
        x1, y1, x2, y2 = box.tolist()
        points = torch.tensor([[(x1 + x2) / 2, y1], [x2, (y1 + y2) / 2], [(x1 + x2) / 2, y2], [x1, (y1 + y2) / 2]])
        corner, size = region[:2].double(), (region[2:] - region[:2]).double()
        polygon = ((points.double() - corner) * (side / size.clamp(min=0.1))).flatten().tolist()
        drawn.append(torch.from_numpy(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], side, side)))))
    return torch.stack(drawn).to(regions)


@pytest.fixture
def exhaustive(student: DistilledDetector) -> Iterator[DistilledDetector]:
    """Nothing is left out by sampling."""
    yield student
    student.zero_grad(set_to_none=True)
    student.eval()


def sample_everything(model: DistilledDetector) -> None:
    model.detector.rpn.fg_bg_sampler.batch_size_per_image = 100_000
    heads: Any = model.detector.roi_heads
    heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction = 2048, 0.5


def test_training(exhaustive: DistilledDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    student, case, truth = exhaustive, load("maskrcnn_train_s256"), load("maskrcnn_vitdet_s256")
    sample_everything(student.train())
    heads: Any = student.detector.roi_heads
    monkeypatch.setattr(heads, "_mask_targets", diamonds)
    targets = [
        {
            "boxes": truth[f"gt_boxes_{i}"],
            "labels": truth[f"gt_classes_{i}"].long() + 1,
            "masks": truth[f"gt_boxes_{i}"].view(-1, 1, 4),
        }
        for i in range(2)
    ]
    batch, sizes, _ = student.prepare(images())

    teacher = network(embed_dim=768, num_heads=12)
    answer = FrozenTeacher(DetectionTeacher(teacher.detector))(batch)
    losses = student(batch, sizes, targets, answer, 1000)
    names = {
        "loss_classifier": "loss_cls",
        "loss_box_reg": "loss_box_reg",
        "loss_mask": "loss_mask",
        "loss_objectness": "loss_rpn_cls",
        "loss_rpn_box_reg": "loss_rpn_loc",
        "imitation_features": "distill_feat_loss",
        "imitation_objectness": "distill_cls_loss",
    }
    assert losses.keys() == names.keys()
    for own, theirs in names.items():
        close(losses[own], case[theirs], LOSS, 1e-9)
    sum(losses.values()).backward()
    norms = dict(zip(load_names("maskrcnn_train_s256", "grad_names"), case["grad_norms"]))
    found = {official_name(name): p.grad for name, p in student.named_parameters()}
    assert found.keys() == norms.keys()
    for name, gradient in found.items():
        assert gradient is not None, name
        close(gradient.norm(), norms[name], GRADIENT_NORM, 1e-7)


def test_schedule() -> None:
    """184,375 steps, taken as one epoch."""
    case = load("det_lr_sched")
    with initialize_config_module("g2sd.conf", version_base="1.3"):
        optim = compose("detect", ["+experiment=coco_sd_small"]).optim
    schedule = build_schedule(
        "multistep", epochs=1, steps_per_epoch=184_375, warmup_steps=optim.warmup_steps, milestones=optim.milestones
    )
    close(torch.tensor([schedule(int(i)) for i in case["iters"]], dtype=torch.float64), case["multiplier"], TABLE, 1e-9)


def test_parameter_groups(student: DistilledDetector) -> None:
    names = {id(p): official_name(name) for name, p in student.named_parameters()}
    groups = detection_groups(student, lr=1.0, layer_decay=0.7, weight_decay=0.05)
    found = {names[id(p)]: [group["lr"], group["weight_decay"]] for group in groups for p in group["params"]}
    expected = load_json("mask_rcnn_vitdet_s.param_groups")
    assert found.keys() == expected.keys()
    for name, rule in expected.items():
        assert found[name] == pytest.approx(rule, rel=1e-6), name
    assert groups[0]["lr"] == 1.0
