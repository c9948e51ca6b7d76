"""Parameter groups by kind and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from vireo.engine import Run
from vireo.engine.layer_decay import layer_decay_groups, weight_decay_groups
from vireo.errors import InputError


def table(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Parameter name -> (weight decay, learning rate)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    entries = [(names[id(p)], (g["weight_decay"], g["lr"])) for g in groups for p in g["params"]]
    assert len(dict(entries)) == len(entries)  # no parameter twice
    return dict(entries)


def vit(**options: Any) -> nn.Module:
    options = {
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 2,
        "img_size": 16,
        "patch_size": 8,
        "num_classes": 5,
        **options,
    }
    with torch.device("meta"):
        return timm.models.VisionTransformer(**options)


@pytest.mark.parametrize(
    ("options", "behind"),
    [
        ({}, {"norm.weight", "norm.bias", "head.weight", "head.bias"}),
        ({"global_pool": "avg"}, {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}),
        ({"num_classes": 0}, {"norm.weight", "norm.bias"}),  # no head: the blocks' scales stay
    ],
)
def test_scales(options: dict[str, Any], behind: set[str]) -> None:
    model = vit(**options)
    found = table(model, layer_decay_groups(model, layer_decay=0.5, lr=8.0))
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, (_, lr) in found.items():
        if name in behind:
            assert lr == 8
        elif name.startswith("blocks."):
            assert lr == (1, 2, 4)[int(name.split(".")[1])]
        else:
            assert name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
            assert lr == 0.5
    assert behind < set(found)


def test_weight_decay_of_kinds() -> None:
    model = vit()
    found = table(model, layer_decay_groups(model, 0.3, lr=1.0))
    decayed = {name for name, (decay, _) in found.items() if decay}
    assert decayed == {name for name, p in model.named_parameters() if p.ndim > 1} - {"cls_token", "pos_embed"}
    assert {found[name][0] for name in decayed} == {0.3}


def test_first_group_has_the_full_rate_and_groups_are_few() -> None:
    groups = layer_decay_groups(vit(), lr=0.1)
    assert groups[0]["lr"] == 0.1
    assert len(groups) == 2 * 5  # embedding, three blocks, head; with and without weight decay


def test_other_timm_models_have_layers_too() -> None:
    with torch.device("meta"):
        model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3)
    found = table(model, layer_decay_groups(model, layer_decay=0.5, lr=1.0))
    assert found["norm.weight"][1] == found["head.fc.weight"][1] == 1
    assert found["layers.3.blocks.1.mlp.fc1.weight"][1] == 0.5
    assert found["patch_embed.proj.weight"][1] == min(lr for _, lr in found.values())


def test_frozen_parameters_are_left_out() -> None:
    model = vit()
    model.get_parameter("pos_embed").requires_grad_(False)
    model.get_parameter("head.weight").requires_grad_(False)
    names = {name for name, _ in model.named_parameters()} - {"pos_embed", "head.weight"}
    assert set(table(model, layer_decay_groups(model, lr=1.0))) == names
    assert set(table(model, weight_decay_groups(model, 0.1, 1.0))) == names


def test_skipped_names_are_whole_names() -> None:
    model = nn.ParameterDict({"mask_token": torch.zeros(1, 1, 4), "other_mask_token": torch.zeros(1, 1, 4)})
    model["weight"] = torch.zeros(4, 4)
    assert table(model, weight_decay_groups(model, 0.05, 0.1)) == {
        "mask_token": (0.0, 0.1),
        "other_mask_token": (0.05, 0.1),
        "weight": (0.05, 0.1),
    }


def test_a_run_keeps_the_ratios(tmp_path: Path) -> None:
    model = timm.models.VisionTransformer(embed_dim=8, depth=1, num_heads=1, img_size=8, patch_size=4, num_classes=2)
    groups = layer_decay_groups(model, layer_decay=0.5, lr=0.1)
    run = Run(tmp_path, epochs=1, accelerator="cpu", log_every=1)
    run.launch()
    network, optimizer = run.setup(model, torch.optim.AdamW(groups), lambda step: 0.1)
    loader = Batches()
    for _ in run.epochs():
        for images, _targets in run.batches(loader):
            run.step({"loss": network(images).square().mean()})
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
        [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]
    )


class Batches:
    def __len__(self) -> int:
        return 1

    def batches(self, epoch: int, start: int = 0) -> Any:
        yield torch.ones(2, 3, 8, 8), {}


@pytest.mark.parametrize("layer_decay", [0.0, 1.5])
def test_layer_decay_out_of_range(layer_decay: float) -> None:
    with pytest.raises(InputError, match=r"is not in \(0, 1\]"):
        layer_decay_groups(vit(), layer_decay=layer_decay, lr=1.0)


def test_a_network_without_layers() -> None:
    with pytest.raises(InputError, match="Linear has no group_matcher"):
        layer_decay_groups(nn.Linear(2, 2), lr=1.0)
