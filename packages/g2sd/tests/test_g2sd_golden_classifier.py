"""Classifiers, their losses, parameter groups and schedule against the reference numbers (sections 3.5 and 4.2)."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from g2sd_golden import LOSS, close, filled, image, keys, load, load_json, sampled, tensor
from torch import Tensor

from g2sd.classifier import Classifier, DistilledVisionTransformer
from g2sd.losses import NKDLoss, hard_distillation_loss
from g2sd.sizes import encoder_options
from vireo.engine import build_schedule
from vireo.engine.layer_decay import layer_decay_groups


@pytest.mark.parametrize(("case", "size"), [("vit_s_distill", "vit_small"), ("vit_ti_distill", "vit_tiny")])
def test_students(case: str, size: str) -> None:
    expected, network = load(case), DistilledVisionTransformer(**encoder_options(size))
    state = network.state_dict()
    assert {key: (tuple(value.shape), value.dtype) for key, value in state.items()} == keys(case)
    assert sum(value.numel() for value in state.values()) == int(expected["n_params"])
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.load_state_dict(filled(case))
    images = image(2, 224, 224)
    with torch.no_grad():
        of_class, of_teacher = network.train()(images)
        sampled(expected, "logits_cls", of_class)
        sampled(expected, "logits_dist", of_teacher)
        network.eval()
        sampled(expected, "logits_eval_avg", network(images))
        sampled(expected, "logits_eval_cls_only", network.forward_head(network.forward_features(images)))


def test_teacher() -> None:
    expected = load("vit_b_teacher")
    network = Classifier(**encoder_options("vit_base"), readout="mean").eval()
    state = network.state_dict()
    assert {key: (tuple(value.shape), value.dtype) for key, value in state.items()} == keys("vit_b_teacher")
    assert sum(value.numel() for value in state.values()) == int(expected["n_params"])
    network.load_state_dict(filled("vit_b_teacher"))
    with torch.no_grad():
        features = network.forward_head(network.forward_features(image(2, 224, 224)), pre_logits=True)
        sampled(expected, "features", features)
        sampled(expected, "logits", network.head(features))


@pytest.fixture(scope="module")
def losses() -> dict[str, Tensor]:
    return load("sd_losses")


def logits(name: str, scale: float) -> Tensor:
    return (tensor(f"input.logit_{name}", (6, 10), 0) * scale).requires_grad_()


def test_hard_distillation(losses: dict[str, Tensor]) -> None:
    own, dist, teacher = logits("s", 2), logits("d", 2), logits("t", 3).detach()
    soft = losses["soft_targets"]
    for weight, name in ((0.0, "sd_loss_gt"), (1.0, "sd_loss_dist"), (0.5, "sd_loss")):
        close(hard_distillation_loss(own, dist, soft, teacher, weight), losses[name], LOSS, 0)
    loss = hard_distillation_loss(own, dist, soft, teacher)
    assert torch.equal(loss, hard_distillation_loss(own, dist, soft, teacher.argmax(1)))
    loss.backward()
    close(own.grad, losses["sd_grad_s"], LOSS, 1e-7)
    close(dist.grad, losses["sd_grad_d"], LOSS, 1e-7)


def test_smoothed_labels(losses: dict[str, Tensor]) -> None:
    smoothed = F.one_hot(losses["labels"], 10) * 0.9 + 0.01
    close(hard_distillation_loss(logits("s", 2), logits("d", 2), smoothed, logits("t", 3), 0), losses["ls_ce"], LOSS, 0)


@pytest.mark.parametrize(
    ("name", "options", "soft", "scale"),
    [
        ("nkd_int", {}, False, (1, 1)),
        ("nkd_soft", {}, True, (1, 1)),
        ("nkd_t2a15", {"temperature": 2.0, "alpha": 1.5}, False, (1, 1)),
        ("nkd_extreme", {}, False, (8, 40)),
    ],
)
def test_normalised_distillation(
    losses: dict[str, Tensor], name: str, options: dict[str, float], soft: bool, scale: tuple[int, int]
) -> None:
    student, teacher = (
        (logits(*of) * factor).detach().requires_grad_() for of, factor in zip((("s", 2), ("t", 3)), scale)
    )
    targets = losses["soft_targets" if soft else "labels"]
    loss = NKDLoss(**options)(student, teacher, targets)
    close(loss, losses[name], LOSS, 0)
    loss.backward()
    assert teacher.grad is None
    close(student.grad, losses[f"{name}_grad"], LOSS, 1e-6)


class _Decayed(DistilledVisionTransformer):
    """With the weight decay of timm 0.3.2."""

    def no_weight_decay(self) -> Set[str]:
        return {"pos_embed", "cls_token"}


@pytest.mark.parametrize(("version", "kind"), [("timm_0.4.12", DistilledVisionTransformer), ("timm_0.3.2", _Decayed)])
def test_layer_decay(version: str, kind: type[DistilledVisionTransformer]) -> None:
    with torch.device("meta"):
        network = kind(**encoder_options("vit_small"))
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups: Any = layer_decay_groups(network, 0.05, 0.75, lr=1.0)
    found = {names[entry]: [group["lr"], group["weight_decay"]] for group in groups for entry in group["params"]}
    expected = load_json("vit_s_distill.param_groups")[version]
    assert found.keys() == expected.keys()
    for name, pair in found.items():
        assert pair == pytest.approx(expected[name], rel=1e-6), name


def test_schedule() -> None:
    """Section 4.2: a line from 0 over five epochs, then a cosine; parameters of early layers a fixed part of it."""
    expected = load("lr_sched")
    steps = 1000
    schedule = build_schedule(
        "cosine", epochs=200, steps_per_epoch=steps, warmup_steps=5 * steps, warmup_start=0.0, final=1e-6 / 4e-3
    )
    found = torch.tensor([4e-3 * schedule(round(float(epoch) * steps)) for epoch in expected["epochs_sd"]])
    close(found, expected["lr_sd"], 1e-6, 1e-12)
    close(found[-1].double() * 0.75**3, expected["scaled_last"], 1e-6, 0)
