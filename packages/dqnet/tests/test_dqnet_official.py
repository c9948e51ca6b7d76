"""The authors' checkpoints, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dqnet_golden import filled, keys
from torch import Tensor

from dqnet import DQnet
from dqnet.layouts import own_name
from dqnet.official import from_official, read_state, to_official, unused_entries
from dqnet.weights import load_model
from vireo.errors import InputError

TINY: dict[str, Any] = {
    "image_size": 64,
    "vit": {"name": "vit_tiny_patch16", "depth": 1},
    "resnet": {"layers": [1, 1, 1, 1]},
    "window": 3,
    "head_width": 8,
}


@pytest.fixture(scope="module")
def network() -> DQnet:
    torch.manual_seed(0)
    return DQnet(**TINY).eval()


@pytest.fixture(scope="module")
def theirs(network: DQnet) -> dict[str, Tensor]:
    """A state dict under the authors' names, of which no entry is zero."""
    state = to_official(network)
    return {**state, **{name: value + 0.5 for name, value in unused_entries(state).items()}}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_published_network_goes_round_exactly() -> None:
    state = filled(0)
    model = from_official({"arch": "DQnet", "epoch": 39, "net_state": state, "ema_net_state": None})
    assert not model.training
    assert (model.arm, model.resnet.queries[0].query.window) == ("gate", 10)  # type: ignore[union-attr, index]
    assert same(to_official(model, unused_entries(state)), state)
    without = to_official(model)
    assert {name: (tuple(value.shape), value.dtype) for name, value in without.items()} == keys()
    assert all(not without[name].any() for name in unused_entries(state))


@pytest.mark.parametrize("form", ["flat", "net_state", "ema_net_state", "state_dict", "data parallel"])
def test_files_of_their_trainer(form: str, network: DQnet, theirs: dict[str, Tensor], tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(value) for name, value in theirs.items()}
    contents: dict[str, Any] = {
        "flat": theirs,
        "net_state": {"arch": "DQnet", "epoch": 39, "net_state": theirs, "opti_state": {}, "scaler": {"scale": 1.0}},
        "ema_net_state": {"net_state": zeros, "ema_net_state": theirs},
        "state_dict": {"state_dict": theirs},
        "data parallel": {f"module.{name}": value for name, value in theirs.items()},
    }
    torch.save(contents[form], tmp_path / "final.pth")
    options = {**TINY, "ema": form == "ema_net_state"}
    found = from_official(tmp_path / "final.pth", **options)
    assert same(found.state_dict(), network.state_dict())
    assert same(to_official(found, unused_entries(contents[form], ema=form == "ema_net_state")), theirs)


def test_another_image_size_resizes_positions(theirs: dict[str, Tensor], network: DQnet) -> None:
    found = DQnet.from_official(theirs, **{**TINY, "image_size": 96})
    assert found.vit is not None
    assert network.vit is not None
    assert found.vit.pos_embed.shape == (1, 1 + 36, 192)  # type: ignore[union-attr]
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(found.vit(images), network.vit(images))


def test_sizes_are_read_from_the_file() -> None:
    torch.manual_seed(0)
    model = DQnet(image_size=48, vit="vit_tiny_patch16", window=5, heads=4, head_width=8, resnet=50)
    found = from_official(to_official(model))
    images = torch.randn(1, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(found(images), model.eval()(images))


def test_every_name_has_its_own() -> None:
    names = [own_name(name) for name in keys()]
    assert len(set(names)) == len(names)


def test_load_model_reports_what_it_left_out(network: DQnet, theirs: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "state_final.pth")
    torch.manual_seed(1)
    other = DQnet(**TINY)
    said = load_model(other, tmp_path / "state_final.pth")
    assert said.endswith("network loaded; left out: space_encoder (10), aux_head (8)")
    assert same(other.state_dict(), network.state_dict())


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if name not in key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda state: without(state, "cross1.q."),
            r"2 missing: resnet.queries.1.query.q.weight, .*q.bias",
        ),
        (lambda state: {**state, "space_encoder.se.weight": torch.ones(1)}, "1 unexpected: resnet.trunk.se.weight"),
        (lambda state: {**state, "segmentation_head.head.weight": torch.ones(1, 8, 1, 1)}, "1 misshaped: head.head"),
        (lambda state: without(state, "pos_embed"), "not complete: no higher_encoder.pos_embed"),
        (lambda state: {"conv1.weight": torch.ones(1)}, "holds no DQnet under the authors' names"),
        (lambda state: {**state, "higher_encoder.pos_embed": torch.ones(1, 13, 192)}, "no square grid"),
    ],
)
def test_anything_else_is_refused(change: Any, said: str, theirs: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match=said):
        from_official(change(theirs), **TINY)


def test_unknown_transformer_and_absent_average(theirs: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match=r"of no known size \(embed_dim 192, depth 1, patch_size 16\)"):
        from_official(theirs)
    with pytest.raises(InputError, match="holds no ema_net_state"):
        read_state({"net_state": theirs, "ema_net_state": None}, ema=True)


def test_controls_have_no_names_there() -> None:
    with torch.device("meta"), pytest.raises(InputError, match="the authors' code has arm gate only"):
        to_official(DQnet("sum", **TINY))
