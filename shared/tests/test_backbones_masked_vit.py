"""The visible-token ViT against timm's own and against computing everything; its decoder; their refusals."""

from __future__ import annotations

import io
from copy import deepcopy
from typing import Any

import pytest
import torch
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vireo.backbones import MaskedViT, TokenDecoder, random_masking
from vireo.backbones.masked_vit import QVLinear
from vireo.backbones.masking import gather_tokens
from vireo.backbones.positions import position_table
from vireo.engine.ema import ema_of
from vireo.errors import InputError

SMALL: dict[str, Any] = {"img_size": 24, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}


def make(**options: Any) -> MaskedViT:
    """A small network without zeros among its parameters."""
    torch.manual_seed(0)
    network = MaskedViT(**{**SMALL, **options})
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, mean=float(name.endswith(("norm.weight", "gamma"))), std=0.1)
    return network


def masked(network: MaskedViT, batch: int = 2, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, channels, *network.patch_embed.img_size, generator=generator)
    noise = torch.rand(batch, network.patch_embed.num_patches, generator=generator)
    return images, random_masking(noise, 0.6).ids_keep


def gradients(module: nn.Module, output: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    found = torch.autograd.grad((output * weights).sum(), list(named.values()), allow_unused=True, retain_graph=True)
    return {name: gradient for name, gradient in zip(named, found) if gradient is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor], absolute: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value - other[name]).abs().max() <= absolute * (1 + value.abs().max()), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_token": True, "positions": "sincos_2d", "qkv_bias": "qkv"},
        {"img_size": (12, 32), "positions": "learned", "init_values": 0.1, "in_chans": 1},
        {"img_size": (32, 12), "class_token": True, "positions": "sincos_2d", "qkv_bias": "none"},
    ],
)
def test_visible_tokens_equal_gathering_after_embedding_everything(options: dict[str, Any]) -> None:
    network = make(**options)
    images, ids = masked(network, channels=options.get("in_chans", 3))
    images.requires_grad_()
    everything = network._pos_embed(network.patch_embed(images))
    prefix = network.num_prefix_tokens
    plain = torch.cat((everything[:, :prefix], gather_tokens(everything[:, prefix:], ids)), 1)
    plain = network.norm(network.blocks(plain))
    quick = network.forward_visible(images, ids)
    assert quick.shape == (2, prefix + ids.shape[1], 24)
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)
    same(gradients(network, quick), gradients(network, plain))
    weights = torch.randn(quick.shape)
    pixels = [torch.autograd.grad((tokens * weights).sum(), images, retain_graph=True)[0] for tokens in (quick, plain)]
    torch.testing.assert_close(*pixels, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.forward_visible(images), network.forward_features(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("readout", ["none", "mean", "cls"])
@pytest.mark.parametrize("qkv_bias", ["qkv", "qv", "none"])
@pytest.mark.parametrize("positions", ["sincos_2d", "learned"])
def test_equals_timm(readout: Any, qkv_bias: Any, positions: Any) -> None:
    token = readout == "cls"
    network = make(readout=readout, num_classes=5, qkv_bias=qkv_bias, positions=positions, init_values=0.1).eval()
    pools: Any = {"none": "", "mean": "avg", "cls": "token"}
    timm_network: Any = VisionTransformer(
        **SMALL,
        num_classes=0 if readout == "none" else 5,
        global_pool=pools[readout],
        class_token=token,
        qkv_bias=qkv_bias != "none",
        init_values=0.1,
    ).eval()
    state = network.state_dict()
    for key in [key for key in state if key.endswith("qkv.bias") and qkv_bias == "qv"]:
        state[key] = torch.cat((state[key][:24], torch.zeros(24), state[key][48:]))
    timm_network.load_state_dict(state)
    images, _ = masked(network)
    torch.testing.assert_close(network(images), timm_network(images), rtol=1e-5, atol=1e-5)


@pytest.fixture
def explicit_attention() -> Any:
    set_fused_attn(False)
    yield
    set_fused_attn(True)


def test_fused_attention_equals_the_explicit_one(explicit_attention: None) -> None:
    explicit = make(class_token=True)
    set_fused_attn(True)
    fused = make(class_token=True)
    assert [network.blocks[0].attn.fused_attn for network in (explicit, fused)] == [False, True]  # type: ignore[union-attr]
    images, ids = masked(fused)
    outputs = [network.forward_visible(images, ids) for network in (explicit, fused)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    same(gradients(explicit, outputs[0]), gradients(fused, outputs[1]))


def test_gradient_checkpointing_changes_nothing() -> None:
    network = make(drop_path_rate=0.3)
    images, ids = masked(network)
    results = []
    for checkpointing in (False, True):
        network.set_grad_checkpointing(checkpointing)
        torch.manual_seed(5)  # the same dropped paths
        output = network.forward_visible(images, ids)
        results.append({"output": output.detach(), **gradients(network, output)})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def compiled(function: Any, backend: str) -> Any:
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


@pytest.mark.parametrize("class_token", [False, True])
def test_compiles_to_one_graph(class_token: bool) -> None:
    network = make(class_token=class_token, positions="sincos_2d")
    decoder = TokenDecoder(24, 48, network.grid_size, 16, 1, 2, prefix_tokens=int(class_token))
    images, _ = masked(network)
    mask = random_masking(torch.rand(2, 36), 0.6)

    def recover(images: Tensor) -> Tensor:
        return decoder(network.forward_visible(images, mask.ids_keep), mask, mask.ids_removed)

    both = nn.ModuleList((network, decoder))
    plain, quick = recover(images), compiled(recover, "aot_eager")(images)
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)
    same(gradients(both, quick), gradients(both, plain))


@pytest.mark.slow
def test_inductor_equals_eager() -> None:
    network = make()
    images, ids = masked(network)
    plain, quick = network.forward_visible(images, ids), compiled(network.forward_visible, "inductor")(images, ids)
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)
    same(gradients(network, quick), gradients(network, plain))


def test_key_bias_stays_zero() -> None:
    torch.manual_seed(0)
    network = MaskedViT(**SMALL)
    qkv = network.blocks[0].attn.qkv  # type: ignore[union-attr]
    assert isinstance(qkv, QVLinear)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    images, ids = masked(network)
    for _ in range(3):
        optimizer.zero_grad()
        network.forward_visible(images, ids).square().mean().backward()
        bias: Any = qkv.bias
        assert bias.grad.chunk(3)[1].abs().max() == 0
        optimizer.step()
    q, k, v = bias.chunk(3)
    assert k.abs().max() == 0
    assert q.abs().max() > 0
    assert v.abs().max() > 0


@pytest.mark.parametrize("how", ["deepcopy", "ema", "pickle"])
def test_copies_have_no_key_bias_either(how: str) -> None:
    network = make().eval()
    if how == "pickle":
        buffer = io.BytesIO()
        torch.save(network, buffer)
        buffer.seek(0)
        copy = torch.load(buffer, weights_only=False)  # of this test's own making
    else:
        copy = deepcopy(network) if how == "deepcopy" else ema_of(network, 0.9).module
    images, ids = masked(network)
    assert torch.equal(copy.forward_visible(images, ids), network.forward_visible(images, ids))
    key_bias = copy.blocks[0].attn.qkv.bias.data[24:48]
    before = copy.forward_visible(images, ids)
    key_bias.add_(100.0)
    assert torch.equal(copy.forward_visible(images, ids), before)


def test_fixed_positions_are_stored_and_not_trained() -> None:
    network = MaskedViT(img_size=(8, 16), patch_size=4, embed_dim=24, depth=1, num_heads=3)
    assert torch.equal(network.pos_embed.detach(), position_table("sinusoid", (2, 4), 24))  # type: ignore[union-attr]
    assert "pos_embed" in network.state_dict()
    assert not network.pos_embed.requires_grad  # type: ignore[union-attr]
    network.init_weights()
    assert torch.equal(network.pos_embed.detach(), position_table("sinusoid", (2, 4), 24))  # type: ignore[union-attr]
    assert MaskedViT(**SMALL, positions="learned").pos_embed.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize("positions", ["sinusoid", "sincos_2d", "learned"])
def test_other_input_size(positions: Any) -> None:
    network = make(positions=positions, class_token=True)
    old = network.pos_embed.detach().clone()  # type: ignore[union-attr]
    network.set_input_size((16, 32))
    new = network.pos_embed
    assert new is not None
    assert new.requires_grad == (positions == "learned")
    if positions == "learned":
        assert torch.equal(new[:, 0], old[:, 0])
        assert new.shape == (1, 33, 24)
    else:
        assert torch.equal(new.detach(), position_table(positions, (4, 8), 24, 1))
    assert network.forward_visible(torch.randn(1, 3, 16, 32)).shape == (1, 33, 24)
    with pytest.raises(InputError, match="18x32 is not divided by patches of 4x4"):
        network.set_input_size((18, 32))


def test_learned_table_is_interpolated_and_keeps_the_class_token() -> None:
    network = make(positions="learned", class_token=True)
    state = make(positions="learned", class_token=True, img_size=48).state_dict()
    fitting = network.resized(state)
    assert fitting["pos_embed"].shape == (1, 37, 24)
    assert torch.equal(fitting["pos_embed"][:, 0], state["pos_embed"][:, 0])
    ramp = torch.arange(12.0).repeat_interleave(12).view(1, 144, 1).expand(-1, -1, 24)
    state["pos_embed"] = torch.cat((torch.zeros(1, 1, 24), ramp), 1)
    rows = network.resized(state)["pos_embed"][0, 1:, 0].view(6, 6)
    torch.testing.assert_close(rows, rows[:, :1].expand(-1, 6))
    assert rows[1:5, 0].tolist() == pytest.approx([2.5, 4.5, 6.5, 8.5], abs=0.1)
    network.load_state_dict(fitting)


def test_learned_table_for_another_kind_of_token_is_left_out() -> None:
    """A pre-training without class token starts a classifier with one: its positions are fresh (section 3.6)."""
    network = make(positions="learned", class_token=True)
    assert "pos_embed" not in network.resized(make().state_dict())


def test_fixed_table_is_this_networks_own() -> None:
    network = make(positions="sincos_2d", class_token=True)
    own = network.state_dict()["pos_embed"]
    larger = make(positions="sincos_2d", class_token=True, img_size=48).state_dict()
    assert torch.equal(network.resized(larger)["pos_embed"], own)
    assert torch.equal(network.resized(make(positions="sincos_2d").state_dict())["pos_embed"], own)
    assert torch.equal(network.resized({})["pos_embed"], own)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"positions": "sinusoid"}, {"positions": "sincos_2d"}),
        ({"positions": "sincos_2d"}, {"positions": "learned"}),
        ({"positions": "sinusoid"}, {"positions": "sincos_2d", "img_size": 48}),
        ({"positions": "learned"}, {"positions": "learned", "img_size": (24, 32)}),
    ],
)
def test_positions_that_would_not_be_reproduced_are_refused(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="pos_embed"):
        make(**mine).resized(make(**theirs).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "max"}, "unknown readout 'max'.*none, mean, cls"),
        ({"positions": "rotary"}, "unknown positions"),
        ({"qkv_bias": True}, "unknown qkv_bias"),
        ({"img_size": 25}, "25x25 is not divided by patches of 4x4"),
        ({"img_size": (24, 30)}, "24x30 is not divided"),
        ({"patch_size": 0}, "not divided by patches of 0x0"),
        ({"num_heads": 5}, "24 channels are not divided by 5 heads"),
        ({"embed_dim": 18, "positions": "sincos_2d"}, "no multiple of 4"),
        ({"readout": "cls", "class_token": False}, "needs a class token"),
        ({"reg_tokens": 2, "pre_norm": True}, "unsupported options pre_norm, reg_tokens"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskedViT(**{**SMALL, **options})


def test_images_of_another_size() -> None:
    with pytest.raises(InputError, match="images of 24x28 for a network of 24x24"):
        make().forward_visible(torch.zeros(1, 3, 24, 28))


def test_decoder_puts_tokens_where_they_belong() -> None:
    """Without blocks, what comes out at a place depends on what was put there alone."""
    decoder = TokenDecoder(5, 7, (2, 3), 8, 0, 2, prefix_tokens=1, embed_bias=True)
    mask = random_masking(torch.tensor([[0.4, 0.1, 0.9, 0.8, 0.2, 0.7]]), 0.5)  # keeps 1, 4, 0
    tokens = torch.randn(1, 4, 5)
    table = decoder.pos_embed[:, 1:]
    expected = decoder.mask_token.expand(1, 6, 8).clone()
    expected[:, [1, 4, 0]] = decoder.embed(tokens[:, 1:])
    expected = decoder.head(decoder.norm(expected + table))
    torch.testing.assert_close(decoder(tokens, mask), expected)
    ids = torch.tensor([[5, 2]])
    torch.testing.assert_close(decoder(tokens, mask, ids), expected[:, [5, 2]])
    whole = torch.randn(1, 7, 5)
    torch.testing.assert_close(decoder(whole), decoder.head(decoder.norm(decoder.embed(whole)[:, 1:] + table)))


def test_decoder_judging_some_equals_judging_all() -> None:
    decoder = TokenDecoder(5, 7, (3, 3), 16, 2, 2)
    mask = random_masking(torch.rand(2, 9), 0.5)
    tokens = torch.randn(2, 4, 5)
    some, everything = decoder(tokens, mask, mask.ids_removed), decoder(tokens, mask)
    torch.testing.assert_close(some, gather_tokens(everything, mask.ids_removed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qkv_bias": "k"}, "unknown qkv_bias"),
        ({"positions": "learned"}, "no fixed table of 'learned'"),
        ({"num_heads": 3}, "16 channels are not divided by 3 heads"),
    ],
)
def test_refused_decoder_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenDecoder(5, 7, (3, 3), **{"embed_dim": 16, "depth": 1, "num_heads": 2, **options})
