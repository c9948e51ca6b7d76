"""Position tables and relative indices against the authors' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from itpn_golden import GOLDEN, close, load, tensor

from itpn.hivit import HiViT
from itpn.positions import resample_positions
from itpn.relative import bias_of_table, places_of, relative_index, resize_table
from vireo.backbones.positions import sincos_2d_table


@pytest.mark.parametrize(
    ("name", "dim", "side", "step"), [("64_4", 64, 4, 1), ("512_14", 512, 14, 16), ("768_14", 768, 14, 24)]
)
def test_sine_cosine_tables(name: str, dim: int, side: int, step: int) -> None:
    close(sincos_2d_table((side, side), dim)[:, ::step], load("position")[f"sincos_{name}"], 1e-6)


def test_relative_index() -> None:
    assert torch.equal(relative_index(places_of((14, 14))).short(), load("position")["rel_index_14"])


def test_the_index_of_visible_units_is_a_part_of_the_whole() -> None:
    grid, ids = (4, 6), torch.tensor([[3, 17, 0], [23, 5, 11]])
    table = tensor("input.table", (7 * 11, 2))
    whole = bias_of_table(table, grid, places_of(grid))
    visible = bias_of_table(table, grid, places_of(grid, ids))
    for sample, kept in enumerate(ids):
        assert torch.equal(visible[sample], whole[0][:, kept][:, :, kept])


@pytest.mark.parametrize("size", ["14x14", "7x7", "16x16", "20x14", "8x12", "32x32", "50x80"])
@torch.no_grad()
def test_positions_of_other_grids(size: str) -> None:
    rows, columns = map(int, size.split("x"))
    network = HiViT(embed_dim=64, depths=(1, 1, 1), num_heads=4)
    network.absolute_pos_embed.copy_(tensor("absolute_pos_embed", (1, 196, 64)))
    expected = load("pos_interp")[f"runtime_{size}"]
    found = 100 * network.positions((rows, columns))[..., ::4]
    close(found[:, ::13] if rows >= 32 else found, expected, 1e-5)


@pytest.mark.parametrize("side", [16, 24, 32])
def test_positions_of_a_checkpoint(side: int) -> None:
    table = tensor("absolute_pos_embed", (1, 196, 64))
    found = 100 * resample_positions(table, (14, 14), (side, side), "size")[..., ::4]
    close(found[:, ::5] if side >= 20 else found, load("pos_interp")[f"ckpt_{side}"], 1e-5)


@pytest.mark.parametrize("rows", [31, 63])
def test_relative_tables_of_other_grids(rows: int) -> None:
    with np.load(GOLDEN / "pos_interp.npz") as data:
        key = str(data["table_key"])
    table = tensor(key, (729, 4))
    found = resize_table(table, (14, 14), ((rows + 1) // 2,) * 2)
    close(found[::3] if rows == 63 else found, load("pos_interp")[f"table_27to{rows}"], 1e-5)
