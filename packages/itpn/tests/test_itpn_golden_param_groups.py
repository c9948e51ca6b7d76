"""Learning rates and weight decays by parameter against the authors' own groups."""

from __future__ import annotations

from typing import Any

import pytest
from itpn_golden import load_json
from omegaconf import OmegaConf
from torch import nn

from itpn.distill import FeatureDistillPretrain
from itpn.fast import FastITPN
from itpn.features import iTPNFeatures
from itpn.hivit import HiViT
from itpn.layer_decay import SCHEMES, layer_decay_groups, parameter_rules
from itpn.neck import PyramidNeck
from itpn.pretraining import build_adamw
from vireo.errors import InputError

BASE: dict[str, Any] = {"img_size": 32, "embed_dim": 16, "depths": (3, 3, 24), "num_heads": 2}
CASES = load_json("param_groups")


class Detector(nn.Module):
    """Backbone, pyramid and something behind them."""

    def __init__(self, depth: int, **options: Any) -> None:
        super().__init__()
        network = HiViT(**BASE, **options)
        self.backbone = iTPNFeatures(network, PyramidNeck(network.dims, 8, depth))
        self.rpn_head = nn.Linear(2, 2)


def ours(name: str) -> str:
    """The name in a :class:`Detector` of a parameter of the authors' detectors."""
    kind, _, rest = name.partition(".")
    if kind != "backbone":
        return name
    of_neck = rest.startswith(("align_dim_", "split_", "block_16to8", "block_8to4", "fpn_modules"))
    return f"backbone.{'neck' if of_neck else 'backbone'}.{rest}"


@pytest.mark.parametrize(
    ("case", "model", "scheme", "decay"),
    [
        ("pixel_base_ld0.60_wd0.05", lambda: HiViT(**BASE, num_classes=4, rel_pos="bias"), "itpn", 0.6),
        (
            "clip_base_ld0.60_wd0.05",
            lambda: HiViT(**BASE, num_classes=4, rel_pos="bias", init_values=0.1),
            "itpn",
            0.6,
        ),
        ("fast_base_ld0.90_wd0.05", lambda: FastITPN(**BASE, num_classes=4), "beit", 0.9),
        ("det_base_ld0.90_num_layers30", lambda: Detector(1), "official_det", 0.9),
        ("seg_base_ld0.90_num_layers30", lambda: Detector(2, rel_pos="bias"), "official_seg", 0.9),
    ],
)
def test_rules_of_fine_tuning(case: str, model: Any, scheme: Any, decay: float) -> None:
    expected = {ours(name): rule for name, rule in CASES[case].items()}
    found = parameter_rules(model(), decay, scheme)
    assert found.keys() == expected.keys()
    for name, (scale, weight_decay) in expected.items():
        assert found[name].scale == pytest.approx(scale, abs=1e-9), name
        assert found[name].decayed == (weight_decay > 0), name


@pytest.mark.parametrize(("scheme", "power"), [("det", 1.0), ("seg", 13 / 32)])
def test_corrected_rules_downstream(scheme: Any, power: float) -> None:
    rules = parameter_rules(Detector(1, rel_pos="bias"), 0.9, scheme)
    of_backbone = {name.removeprefix("backbone.backbone."): rule for name, rule in rules.items()}
    layers = {"absolute_pos_embed": 0, "patch_embed.proj.weight": 0, "blocks.0.mlp.fc1.weight": 1}
    layers |= {"blocks.2.mlp.fc1.weight": 3, "blocks.3.reduction.weight": 3, "blocks.4.mlp.fc1.weight": 4}
    layers |= {"blocks.7.reduction.weight": 6, "blocks.8.attn.qkv.weight": 7, "blocks.31.mlp.fc1.weight": 30}
    for name, layer in layers.items():
        assert of_backbone[name].scale == pytest.approx(0.9 ** (power * (31 - layer)), abs=1e-9), name
    assert {rule.scale for name, rule in rules.items() if not name.startswith("backbone.backbone.")} == {1.0}
    bare = ("absolute_pos_embed", "blocks.9.attn.relative_position_bias_table")
    assert not any(of_backbone[name].decayed for name in bare)
    assert of_backbone["blocks.9.attn.qkv.weight"].decayed


@pytest.mark.parametrize("scheme", SCHEMES)
def test_groups_hold_every_trained_parameter_once_the_full_rate_first(scheme: Any) -> None:
    model = Detector(1)
    model.backbone.backbone.patch_embed.requires_grad_(False)
    groups = layer_decay_groups(model, lr=2e-4, decay=0.9, weight_decay=0.05, scheme=scheme)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert groups[0]["lr"] == 2e-4
    assert groups[0]["weight_decay"] == 0.05
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}
    rules = parameter_rules(model, 0.9, scheme)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == 2e-4 * rules[name].scale


@pytest.mark.parametrize(
    ("model", "decay", "scheme", "message"),
    [
        (nn.Linear(2, 2), 0.9, "itpn", "holds no backbone"),
        (FastITPN(**BASE), 0.0, "beit", "not in"),
        (FastITPN(**BASE), 0.9, "vit", "unknown scheme"),
    ],
)
def test_faults(model: nn.Module, decay: float, scheme: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layer_decay_groups(model, 1e-3, decay, scheme=scheme)


def test_rules_of_feature_pre_training() -> None:
    backbone = HiViT(img_size=32, embed_dim=16, depths=(1, 1, 5), num_heads=2, rel_pos="bias", init_values=0.1)
    model = FeatureDistillPretrain(backbone, PyramidNeck(backbone.dims, 8), 4)
    optim = OmegaConf.create({"lr": 1.5e-3, "betas": [0.9, 0.98], "weight_decay": 0.05})
    decays = {
        id(parameter): group["weight_decay"]
        for group in build_adamw(model, optim, 256, "clip").param_groups
        for parameter in group["params"]
    }
    found = {
        name.removeprefix("backbone.").removeprefix("neck."): decays[id(parameter)]
        for name, parameter in model.named_parameters()
    }
    assert found == {name: weight_decay for name, (_, weight_decay) in CASES["clip_pretrain_wd0.05"].items()}
