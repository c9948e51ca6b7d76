"""HiViT and its pyramid: what is dropped is not computed, any size of image, cached tables, clear errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from itpn.attention import Attention, set_fused
from itpn.features import iTPNFeatures
from itpn.hivit import HiViT
from itpn.neck import PyramidNeck, units_to_map
from itpn.positions import resample_positions
from itpn.relative import places_of
from itpn.sizes import SIZES, itpn_backbone
from vireo.errors import InputError

TINY: dict[str, Any] = {"img_size": 64, "embed_dim": 32, "depths": (1, 1, 2), "num_heads": 2}


def tiny(**options: Any) -> HiViT:
    torch.manual_seed(0)
    network = HiViT(**{**TINY, **options})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias_table"):
                nn.init.normal_(parameter)
    return network.eval()


def images(height: int = 64, width: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_visible_units_are_embedded_as_in_the_whole_image() -> None:
    network = tiny()
    ids = torch.tensor([[5, 0, 9], [15, 2, 3]])
    whole = network.forward_early(network.embed_units(images()))
    visible = network.forward_early(network.embed_units(images(), ids))
    for of_all, of_some in zip(whole, visible):
        torch.testing.assert_close(of_some, torch.stack([x[kept] for x, kept in zip(of_all, ids)]))


@pytest.mark.parametrize("rel_pos", [None, "bias"])
def test_what_is_dropped_does_not_count(rel_pos: Any) -> None:
    network = tiny(rel_pos=rel_pos)
    ids = torch.tensor([[4, 1, 0], [0, 7, 12]])
    changed = images()
    for sample, kept in enumerate(ids):
        for unit in set(range(16)) - set(kept.tolist()):
            row, column = divmod(unit, 4)
            changed[sample, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 100.0
    torch.testing.assert_close(network.forward_features(changed, ids), network.forward_features(images(), ids))


def test_all_units_in_another_order() -> None:
    network = tiny(rel_pos="bias", pos_resample="size")
    ids = torch.randperm(16, generator=torch.Generator().manual_seed(2)).expand(2, -1)
    whole = network.forward_features(images())
    torch.testing.assert_close(network.forward_features(images(), ids), whole[:, ids[0]], rtol=1e-4, atol=1e-6)


def test_dropping_no_unit_resamples_positions_as_published_only_on_request() -> None:
    ids = torch.arange(16)[:8].expand(2, -1)
    table = tiny().absolute_pos_embed
    official, plain = tiny().positions((4, 4), ids), tiny(pos_resample="size").positions((4, 4), ids)
    assert torch.equal(plain[0], table[0, :8])
    assert torch.equal(official[0], resample_positions(table, (4, 4), (4, 4), "official")[0, :8])
    assert not torch.allclose(official[0], table[0, :8])


@pytest.mark.parametrize("rel_pos", [None, "bias", "decomposed"])
@pytest.mark.parametrize("size", [(64, 64), (96, 32), (48, 80)], ids=str)
def test_plain_and_fused_attention_agree_on_any_grid(size: tuple[int, int], rel_pos: Any) -> None:
    network = tiny(rel_pos=rel_pos, init_values=0.1)
    found = []
    for fused in (True, False):
        set_fused(network, fused)
        network.zero_grad()
        tokens = network.forward_features(images(*size))
        tokens.square().mean().backward()
        assert tokens.shape == (2, size[0] // 16 * (size[1] // 16), 32)
        found.append((tokens, *(p.grad for p in network.parameters() if p.grad is not None)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_kept_bias_follows_the_table() -> None:
    network = tiny(rel_pos="bias")
    with torch.no_grad():
        first = network(images())
        assert torch.equal(network(images()), first)
        kept = [module._kept for module in network.modules() if isinstance(module, Attention)]
        assert all(kept)
        other = network(images(96, 64))
        for parameter in network.parameters():
            parameter.mul_(1.5)
        changed = network(images())
        network.train().eval()
        assert torch.equal(network(images()), changed)
        assert not torch.allclose(changed, first)
        assert other.shape == first.shape
    network(images()).sum().backward()  # a kept bias must not take the gradient from the table
    assert all(p.grad is not None for name, p in network.named_parameters() if name.endswith("bias_table"))


def test_checkpointing_gives_the_same_gradients() -> None:
    found = []
    for enable in (False, True):
        network = tiny(rel_pos="bias").train()
        network.set_grad_checkpointing(enable)
        network(images()).square().sum().backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("ids", [None, torch.tensor([[3, 1], [0, 2]])], ids=["all", "visible"])
@pytest.mark.parametrize("rel_pos", [None, "bias"])
def test_compiles_as_one_graph(rel_pos: Any, ids: Tensor | None) -> None:
    network = tiny(rel_pos=rel_pos)
    compiled = torch.compile(network.forward_features, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images(), ids), network.forward_features(images(), ids))


def test_stages_as_timm_gives_them() -> None:
    network = tiny()
    tokens, maps = network.forward_intermediates(images(32, 64))
    assert [tuple(found.shape) for found in maps] == [(2, 8, 8, 16), (2, 16, 4, 8), (2, 32, 2, 4)]
    assert torch.equal(maps[2].flatten(2).transpose(1, 2), tokens)
    only = network.forward_intermediates(images(32, 64), [0], stop_early=True, intermediates_only=True)
    assert torch.equal(only[0], maps[0])
    with pytest.raises(InputError, match="NCHW"):
        network.forward_intermediates(images(), output_fmt="NLC")


def test_maps_put_units_in_their_places() -> None:
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    expected = torch.stack((rows, columns))[None].float()
    units = expected.unflatten(3, (3, 4)).unflatten(2, (2, 4)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2)
    assert torch.equal(units_to_map(units, (2, 3)), expected)


def test_every_parameter_of_the_pyramid_has_a_gradient() -> None:
    network = iTPNFeatures(tiny(), PyramidNeck((8, 16, 32), 24, 2), num_outs=4)
    sum(found.square().mean() for found in network.maps(images())).backward()  # type: ignore[union-attr]
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    assert network.out_channels == 24


@pytest.mark.parametrize("size", [(48, 80), (16, 16)], ids=str)
def test_odd_grids_lose_their_last_row_in_pooled_maps(size: tuple[int, int]) -> None:
    network = iTPNFeatures(tiny(), PyramidNeck((8, 16, 32), 24), num_outs=4 if size[0] > 16 else 3)
    maps = network.maps(images(*size))
    for found, stride in zip(maps, network.strides):
        assert tuple(found.shape[2:]) == (size[0] // stride, size[1] // stride)


def test_a_classifier_comes_and_goes() -> None:
    network = tiny()
    assert network(images()).shape == (2, 32)
    network.reset_classifier(5)
    assert network(images()).shape == (2, 5)
    assert torch.equal(network.forward_head(network.forward_features(images())), network(images()))
    network.reset_classifier(0)
    assert network(images()).shape == (2, 32)


def test_drop_path_grows_over_the_blocks_that_are_no_merges() -> None:
    network = tiny(drop_path_rate=0.3, depths=(1, 1, 2))
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in network.blocks if hasattr(block, "drop_path")]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 70}, "70x70 is not divided by units of 16x16"),
        ({"patch_size": 6, "img_size": 60}, "no inner grid of 4x4"),
        ({"num_heads": 3}, "3 heads"),
        ({"embed_dim": 30}, "do not suit three stages"),
        ({"rel_pos": "rope"}, "unknown relative positions"),
        ({"pos_resample": "nearest"}, "unknown resampling"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HiViT(**{**TINY, **options})


@pytest.mark.parametrize("size", [(65, 64), (64, 72), (8, 64)], ids=str)
def test_images_that_units_do_not_divide(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="not divided by units"):
        tiny()(images(*size))


def test_pyramids_that_do_not_fit() -> None:
    neck = PyramidNeck((8, 16, 32), 24)
    with pytest.raises(InputError, match="2 maps"):
        iTPNFeatures(tiny(), neck, num_outs=2)
    with pytest.raises(InputError, match="unknown pooling"):
        iTPNFeatures(tiny(), neck, extra="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a neck over"):
        iTPNFeatures(tiny(embed_dim=64), neck)
    with pytest.raises(InputError, match="unknown pooling"):
        tiny().reset_classifier(3, "token")


def test_backbones_by_name() -> None:
    with torch.device("meta"):
        for name in SIZES:
            assert itpn_backbone(name, num_classes=0).num_features == SIZES[name]["embed_dim"]
    assert itpn_backbone("itpn_base", **{**TINY, "depths": [1, 1, 1]}).depths == (1, 1, 1)
    with pytest.raises(InputError, match="unknown backbone 'itpn_huge'"):
        itpn_backbone("itpn_huge")
    with pytest.raises(InputError, match="unexpected keyword"):
        itpn_backbone("itpn_base", embed_dims=64)


def test_places_of_all_units_and_of_some() -> None:
    assert places_of((2, 3)).all_units
    some = places_of((2, 3), torch.tensor([[5, 0]]))
    assert some.rows.tolist() == [[1, 0]]
    assert some.columns.tolist() == [[2, 0]]
    assert not some.all_units
