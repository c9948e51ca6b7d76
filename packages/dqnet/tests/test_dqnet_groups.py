"""The optimizer's groups and its schedule are the authors'; their slips can be undone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dqnet_golden import load, load_json
from omegaconf import OmegaConf

from dqnet import DQnet
from dqnet.build import build_optimizer, build_schedule
from dqnet.groups import param_groups
from dqnet.layouts import UNUSED, official_name
from vireo.errors import InputError

SMALL: dict[str, Any] = {
    "image_size": 32,
    "vit": {"name": "vit_tiny_patch16", "embed_dim": 16, "depth": 2, "num_heads": 2},
    "resnet": {"layers": (1, 1, 1, 1), "width": 8},
    "window": 2,
    "heads": 2,
    "head_width": 8,
}
OPTIM = {
    "lr": 5e-4,
    "vit_lr": 1e-4,
    "layer_decay": 0.75,
    "betas": [0.9, 0.999],
    "weight_decay": 0.1,
    "vit_weight_decay": 0.0,
    "freeze_vit_norm": True,
    "decay_vectors": True,
}


def by_name(model: DQnet, **options: Any) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of every parameter that is optimised."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups(model, **options)
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)  # each once
    return found


def small(**options: Any) -> DQnet:
    return DQnet(**{**SMALL, **options})


def test_the_authors_groups() -> None:
    """Rate and decay of every parameter by the authors' name; what takes no part in our network is only in theirs."""
    with torch.device("meta"):
        model = DQnet()
    expected = load_json("optimizer_groups")
    found = {official_name(name): values for name, values in by_name(model).items()}
    used = {name: tuple(values) for name, values in expected["per_parameter"].items() if not UNUSED.match(name)}
    assert found.keys() == used.keys()
    assert all(found[name] == pytest.approx(values, rel=1e-12) for name, values in used.items())
    left_out = {official_name(name) for name, _ in model.named_parameters()} - found.keys()
    assert sorted(left_out) == sorted(expected["not_optimised"])
    rates = {group["lr"] for group in expected["groups"]}
    assert sorted({lr for lr, _ in found.values()}) == pytest.approx(sorted(rates))


@pytest.mark.parametrize(("final", "key"), [(0.001, "coef"), (1e-6, "coef_min1e6")])
def test_the_authors_schedule(final: float, key: str) -> None:
    case = load("poly_schedule_4040")
    settings = OmegaConf.create({"power": 0.9, "min": final, "warmup_steps": 0})
    schedule = build_schedule(settings, int(case["num_iters"]))
    found = [schedule(int(step)) for step in case["index"]]
    assert found == pytest.approx(case[key].tolist(), rel=1e-12)


def test_full_rate_comes_first() -> None:
    """It is the one that a run logs."""
    for arm in ("gate", "vit", "resnet"):
        assert param_groups(small(arm=arm))[0]["lr"] == 5e-4


def test_the_final_norm_can_be_trained() -> None:
    model = small()
    assert not any(name.startswith("vit.norm.") for name in by_name(model))
    found = by_name(model, freeze_vit_norm=False, vit_weight_decay=0.05)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert found["vit.norm.weight"] == (1e-4, 0.0)
    assert found["vit.blocks.1.attn.qkv.weight"] == (pytest.approx(0.75e-4), 0.05)


def test_decay_of_the_transformer_is_of_matrices() -> None:
    found = by_name(small(), vit_weight_decay=0.05)
    decays = {name: decay for name, (_, decay) in found.items() if name.startswith("vit.")}
    bare = ("cls_token", "pos_embed", "bias", "norm1.weight", "norm2.weight")
    assert all((decay == 0.0) == name.endswith(bare) for name, decay in decays.items())
    assert set(decays.values()) == {0.0, 0.05}


def test_norms_and_biases_can_be_spared() -> None:
    model = small()
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    found = by_name(model, decay_vectors=False)
    own = {name: decay for name, (_, decay) in found.items() if not name.startswith("vit.")}
    assert all(decay == (0.1 if shapes[name] > 1 else 0.0) for name, decay in own.items())
    assert own["head.fuse.1.weight"] == own["resnet.trunk.bn1.bias"] == 0.0
    assert own["resnet.queries.0.query.rel_pos_h"] == 0.1


def test_one_rate_without_layer_decay() -> None:
    rates = {lr for name, (lr, _) in by_name(small(), layer_decay=1.0).items() if name.startswith("vit.")}
    assert rates == {1e-4}


def test_what_needs_no_gradient_is_left_out() -> None:
    model = small()
    assert model.resnet is not None
    model.resnet.requires_grad_(False)
    assert not any(name.startswith("resnet.") for name in by_name(model))


def test_a_frozen_norm_stays_as_it_is() -> None:
    """Gradients pass through it nonetheless."""
    torch.manual_seed(0)
    model = small().train()
    assert model.vit is not None
    optimizer = build_optimizer(model, OmegaConf.create(OPTIM))
    before = {name: p.detach().clone() for name, p in model.vit.named_parameters()}
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    same = {name for name, p in model.vit.named_parameters() if torch.equal(p, before[name])}
    assert same == {"norm.weight", "norm.bias"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lr", 0.0, "optim.lr: a rate of 0.0 trains nothing"),
        ("vit_lr", -1.0, "optim.vit_lr: a rate of -1.0 trains nothing"),
        ("layer_decay", 1.5, "optim.layer_decay: 1.5 is not in (0, 1]"),
        ("weight_decay", -0.1, "optim.weight_decay: -0.1 is negative"),
        ("vit_weight_decay", -0.1, "optim.vit_weight_decay: -0.1 is negative"),
    ],
)
def test_values_out_of_range(option: str, value: float, message: str) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InputError) as error:
        param_groups(small(), **options)
    assert message in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("min", 2.0), ("min", -0.1), ("power", 0.0)])
def test_schedules_out_of_range(key: str, value: float) -> None:
    settings = OmegaConf.create({"power": 0.9, "min": 0.001, "warmup_steps": 0, key: value})
    with pytest.raises(InputError, match=f"schedule.{key}"):
        build_schedule(settings, 10)


def test_warmup() -> None:
    schedule = build_schedule(OmegaConf.create({"power": 1.0, "min": 0.0, "warmup_steps": 4}), 9)
    assert schedule(0) == pytest.approx(0.001)
    assert schedule(2) == pytest.approx((0.001 + 0.999 / 2) * 0.75)
    assert schedule(4) == pytest.approx(0.5)
