"""Segmenters against the reference numbers: maps, scores, windows, losses with a teacher, names, parameter groups."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from g2sd_golden import (
    FORWARD,
    GRADIENT_NORM,
    LOSS,
    close,
    filled,
    image,
    keys,
    load,
    load_json,
    load_names,
    sampled,
    tensor,
)
from torch import Tensor

from g2sd.divergence import ChannelWiseDivergence
from g2sd.official_segmenter import to_official
from g2sd.segmenter import Segmenter
from g2sd.teacher import FrozenTeacher
from vireo.engine import layer_decay_groups
from vireo.segmentation import sliding_window_logits
from vireo.testing import fill_state_dict

CASE, NAME, SIZE = "upernet_s128", "upernet_mae_small", 128
SCORES = 1e-3  # absolute, of class scores


@pytest.fixture(scope="module")
def student() -> Segmenter:
    model = Segmenter(150, SIZE).eval()
    state = {key: value for key, value in filled(NAME).items() if "relative_position_index" not in key}
    model.load_state_dict(state)
    return model


def test_names_are_the_authors(student: Segmenter) -> None:
    found = {key: (tuple(value.shape), value.dtype) for key, value in to_official(student).items()}
    assert found == keys(NAME)
    expected = load(CASE)
    assert sum(p.numel() for p in student.parameters()) == int(expected["n_params"])
    assert sum(p.numel() for p in student.backbone.parameters()) == int(expected["n_params_backbone"])


@torch.no_grad()
def test_maps_and_scores(student: Segmenter) -> None:
    expected = load(CASE)
    maps = student.maps(image(1, SIZE, SIZE))
    for i, found in enumerate(maps):
        sampled(expected, f"backbone_{i}", found)
    assert student.auxiliary_head is not None
    sampled(expected, "decode_logits", student.decode_head(maps), FORWARD, SCORES)
    sampled(expected, "aux_logits", student.auxiliary_head(maps), FORWARD, SCORES)


@torch.no_grad()
def test_windows(student: Segmenter) -> None:
    expected = load(CASE)
    images = tensor("input.big", (1, 3, 150, 200), 0)
    scores = sliding_window_logits(student, images, (SIZE, SIZE), (85, 85))
    shares = F.interpolate(scores, size=(300, 397), mode="bilinear", align_corners=False).softmax(1)
    sampled(expected, "slide_prob", shares, FORWARD, FORWARD)
    agreement = (shares.argmax(1)[:, ::3, ::3] == expected["slide_pred"]).float().mean()
    assert agreement > 0.999


@pytest.fixture(scope="module")
def teacher_scores() -> Tensor:
    model = Segmenter(150, SIZE, embed_dim=768, num_heads=12, auxiliary_channels=0)
    fill_state_dict(model.state_dict(), 1)
    scores: Tensor = FrozenTeacher(model).ask(model.scores, image(1, SIZE, SIZE))
    return scores


def test_training_with_a_teacher(student: Segmenter, teacher_scores: Tensor) -> None:
    expected = load(CASE)
    labels = (tensor("input.seg_label", (1, 1, SIZE, SIZE), 0).abs() * 1000).to(torch.int64)[:, 0] % 150
    labels[:, :5] = 255
    student.divergence = ChannelWiseDivergence(tau=1.0, weight=3.0)
    try:
        losses = student(image(1, SIZE, SIZE), labels, teacher_scores)
        assert isinstance(losses, dict)
        close(losses["loss_decode"], expected["train.decode.loss_seg"], LOSS, 0)
        close(losses["loss_auxiliary"], expected["train.aux.loss_seg"], LOSS, 0)
        close(losses["loss_divergence"], expected["train.loss_cwd"], LOSS, 0)
        torch.stack(list(losses.values())).sum().backward()
        norms = {name: p.grad.norm() for name, p in student.named_parameters() if p.grad is not None}
    finally:
        student.zero_grad(set_to_none=True)
        student.divergence = None
    assert set(norms) == set(load_names(CASE, "grad_names"))
    found = torch.stack([norms[name] for name in load_names(CASE, "grad_names")])
    close(found, expected["grad_norms"], GRADIENT_NORM, 1e-7)


def test_layer_decay(student: Segmenter) -> None:
    """Section 4.4: positions and class token are decayed, as in the authors' run."""
    expected = load_json(f"{NAME}.param_groups")
    names = {id(p): name for name, p in student.named_parameters()}
    groups = layer_decay_groups(student, 0.05, 0.65, lr=1.0)
    found = {f"0.{names[id(p)]}": (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == expected.keys()
    for name, (rate, decay) in expected.items():
        assert found[name] == (pytest.approx(rate, rel=1e-6), decay), name
    assert groups[0]["lr"] == 1.0
