"""Fast-iTPN against the authors' own network, with fused and with explicit attention."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from itpn_golden import close, filled, image, keys, load, tensor
from torch import Tensor

from itpn.attention import set_fused
from itpn.fast import FastITPN, cells_to_units
from itpn.fast_blocks import decoupled_index, relative_index
from itpn.neck import units_to_map
from itpn.sizes import itpn_backbone

TINY: dict[str, Any] = {"img_size": 64, "embed_dim": 64, "depths": (2, 1, 3), "num_heads": 4, "num_classes": 10}
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny_fast_default": {},
    "tiny_fast_final_norm": {"mean_pooling": False},
    "tiny_fast_no_gamma": {"init_values": None},
    "tiny_fast_cls_rel": {"cls_token": True, "rel_pos": "bias"},
    "tiny_fast_cls_shared": {"cls_token": True, "rel_pos": "shared"},
    "tiny_fast_cls_decoupled": {"cls_token": True, "rel_pos": "decoupled"},
    "tiny_fast_plain_mlp_fused_qkv": {"subln": False, "swiglu": False},
    "tiny_fast_patch_norm": {"patch_norm": True},
}


def loaded(network: FastITPN, case: str) -> FastITPN:
    """The network with the parameters of a case; the authors' buffers of indices are not parameters."""
    state = {key: value for key, value in filled(case).items() if not key.endswith("_index")}
    network.load_state_dict(state, strict=True)
    return network.eval()


def watched(network: FastITPN, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Outputs of the patch embedding and of blocks, as the authors' maps and tokens, and the logits."""
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        of_stage3 = output.ndim == 3
        found[name] = output if of_stage3 else units_to_map(cells_to_units(output), network.grid_size)

    modules = {name: network.blocks[int(name[5:])] for name in names if re.fullmatch(r"block\d+", name)}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: keep(name, output))
        for name, module in {"patch_embed": network.patch_embed, **modules}.items()
    ]
    found["logits"] = network(images)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("case", VARIANTS)
@torch.no_grad()
def test_variants(case: str, fused: bool) -> None:
    variant = case.removeprefix("tiny_fast_")
    expected = {name.partition("/")[2]: x for name, x in load("tiny_fast").items() if name.startswith(f"{variant}/")}
    network = loaded(FastITPN(**TINY, **VARIANTS[case]), case)
    set_fused(network, fused)
    found = watched(network, list(expected), image(2, 64, 64))
    for name, array in expected.items():
        close(found[name], array)


@pytest.mark.parametrize("case", ["fast_tiny", "fast_small", "fast_base"])
@torch.no_grad()
def test_published_sizes(case: str) -> None:
    network = itpn_backbone(case.replace("fast", "fast_itpn"), num_classes=1000)
    assert isinstance(network, FastITPN)
    loaded(network, case)
    expected = load(case)
    for fused in (True, False):
        set_fused(network, fused)
        found = watched(network, list(expected), image(2, 224, 224))
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            close(found[name] if name == "logits" else found[name].flatten(1)[:, ::4999], array)


@torch.no_grad()
def test_of_384_pixels() -> None:
    network = itpn_backbone("fast_itpn_tiny", img_size=384, num_classes=1000)
    assert isinstance(network, FastITPN)
    state = filled("fast_tiny")
    state["pos_embed"] = tensor("pos_embed", (1, 576, 384))
    network.eval().load_state_dict(state)
    found = watched(network, [], image(1, 384, 384))
    expected = load("fast_tiny_384")
    close(found["patch_embed"].flatten(1)[:, ::4999], expected["patch_embed"])
    close(found["logits"], expected["logits"])


def test_large_has_the_authors_entries() -> None:
    with torch.device("meta"):
        network = itpn_backbone("fast_itpn_large", num_classes=1000)
    expected = {key: shape for key, (shape, _) in keys("fast_large").items()}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == expected


@pytest.mark.parametrize("grid", [(14, 14), (4, 6)], ids=["14", "4x6"])
def test_relative_indices_with_a_class_token(grid: tuple[int, int]) -> None:
    expected, name = load("position"), "14" if grid[0] == grid[1] else "4x6"
    high, width = decoupled_index(grid)
    for found, kind in ((relative_index(grid), "rel"), (high, "high"), (width, "width")):
        assert torch.equal(found.short(), expected[f"fast_{kind}_index_{name}"])


@torch.no_grad()
def test_epsilon_of_the_norms() -> None:
    network = loaded(FastITPN(**TINY), "tiny_fast_default")
    found = network.blocks[0].norm2(0.003 * tensor("input.tokens16", (1, 4, 16)))  # type: ignore[operator]
    close(found, load("eps")["fast_block0_norm2"], 1e-5)
