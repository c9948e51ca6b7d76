"""Parameter groups against the official grouping: case ``param_groups`` (``param_groups.json``)."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from bm_golden import load_json
from torch import nn

from vireo.engine.layer_decay import layer_decay_groups, weight_decay_groups

LR = 1e-3
TABLES = load_json("param_groups")


def found(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Parameter name -> (weight decay, learning rate)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["weight_decay"], group["lr"]) for group in groups for p in group["params"]}


def timm_name(name: str) -> str:
    """timm keeps the biases of queries, keys and values in one vector."""
    return name.replace("attn.q_bias", "attn.qkv.bias").replace("attn.v_bias", "attn.qkv.bias")


def is_table(actual: dict[str, tuple[float, float]], expected: dict[str, list[float]]) -> None:
    for name, (weight_decay, scale) in expected.items():
        assert actual[name] == (weight_decay, pytest.approx(LR * scale, rel=1e-12)), name
    assert set(actual) == set(expected)


def test_every_table_has_a_test() -> None:
    tables = {"finetune_base_layer_decay_0.75", "pretrain_zoomed-in_depth1", "pretrain_distorted_depth1"}
    assert set(TABLES) == tables


def test_fine_tuning_with_layer_decay() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=1000)
    expected = TABLES["finetune_base_layer_decay_0.75"]
    for name, entry in expected.items():  # both biases stand for the same parameter
        assert expected[name.replace("q_bias", "v_bias")] == entry
    groups = layer_decay_groups(model, weight_decay=0.05, layer_decay=0.75, lr=LR)
    is_table(found(model, groups), {timm_name(name): entry for name, entry in expected.items()})


class StandIn(nn.Module):
    """Parameters of given names and numbers of dimensions."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *path, own = name.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(own, nn.Parameter(torch.empty(shape, device="meta")))


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("pretrain_zoomed-in_depth1", "pretrain_zoomed_in_base"),
        ("pretrain_distorted_depth1", "pretrain_distorted_base"),
    ],
)
def test_pre_training(table: str, keys: str) -> None:
    shapes = {name: entry["shape"] for name, entry in load_json(f"{keys}.keys").items()}
    depth_one = {name: shape for name, shape in shapes.items() if "blocks" not in name or ".blocks.0." in name}
    model = StandIn(depth_one)
    is_table(found(model, weight_decay_groups(model, weight_decay=0.05, lr=LR)), TABLES[table])
