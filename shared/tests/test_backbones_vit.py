"""ViT features: shapes, position embeddings that follow the image, MAE's checkpoint layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from vireo.backbones.vit import SimpleFeaturePyramid, ViTFeatures
from vireo.errors import InputError

NAME = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3}


def make(**kwargs: Any) -> ViTFeatures:
    torch.manual_seed(0)
    return ViTFeatures(NAME, out_channels=16, **SMALL, **kwargs).eval()


def mae_state(dim: int = 48, depth: int = 2, grid: int = 14) -> dict[str, Tensor]:
    """A pre-training checkpoint's ``model`` entry: MAE's names, written out here."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + grid**2, dim),
        "mask_token": (1, 1, 32),
        "decoder_pos_embed": (1, 1 + grid**2, 32),
        "patch_embed.proj.weight": (dim, 3, 16, 16),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
        "decoder_embed.weight": (32, dim),
        "decoder_blocks.0.norm1.weight": (32,),
        "decoder_pred.bias": (768,),
    }
    for i in range(depth):
        for name, width in (("attn.qkv", (3 * dim, dim)), ("attn.proj", (dim, dim))):
            shapes |= {f"blocks.{i}.{name}.weight": width, f"blocks.{i}.{name}.bias": width[:1]}
        for name, width in (("mlp.fc1", (4 * dim, dim)), ("mlp.fc2", (dim, 4 * dim))):
            shapes |= {f"blocks.{i}.{name}.weight": width, f"blocks.{i}.{name}.bias": width[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{name}.weight": (dim,), f"blocks.{i}.{name}.bias": (dim,)}
    generator = torch.Generator().manual_seed(1)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
def test_maps(size: tuple[int, int]) -> None:
    model = make()
    images = torch.randn(2, 3, *size, requires_grad=True)
    maps = model(images)
    assert model.strides == (4, 8, 16, 32)
    assert [m.shape for m in maps] == [
        (2, c, size[0] // s, size[1] // s) for c, s in zip(model.channels, model.strides)
    ]
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None for p in model.pyramid.parameters())
    assert images.grad is not None


def test_one_patch_is_one_place() -> None:
    """The stride-16 branch sees patch (row, column) at (row, column): rows and columns are not swapped."""
    model = make()
    model.body.forward_features = lambda x: torch.cat(
        [torch.zeros(1, 1, 48), torch.arange(4 * 6.0).view(1, 24, 1).expand(1, 24, 48)], dim=1
    )
    seen: list[Tensor] = []
    model.pyramid.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.zeros(1, 3, 64, 96))
    assert torch.equal(seen[0][0, 0], torch.arange(24.0).view(4, 6))


def test_same_tokens_as_timm() -> None:
    model = make()
    plain: Any = timm.create_model(NAME, num_classes=0, **SMALL).eval()
    plain.load_state_dict(model.body.state_dict())
    images = torch.randn(1, 3, 224, 224)
    expected = plain.forward_features(images)
    torch.testing.assert_close(model.body.forward_features(images).flatten(), expected.flatten())


def test_other_patch_size() -> None:
    model = ViTFeatures("vit_tiny_patch16_224", patch_size=8, img_size=64, out_channels=8, **SMALL)
    assert model.strides == (2, 4, 8, 16)
    assert [m.shape[-1] for m in model(torch.zeros(1, 3, 32, 64))] == [32, 16, 8, 4]


def test_unpadded_image_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        make()(torch.zeros(1, 3, 48, 64))


def test_mae_checkpoint_loads() -> None:
    model, state = make(), mae_state()
    model.load_body(state)
    own = model.body.state_dict()
    assert set(own) == {k for k in state if not k.startswith(("decoder", "mask"))}
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert len(model(torch.zeros(1, 3, 64, 64))) == 4


def test_starts_from_a_file(tmp_path: Path) -> None:
    """Nothing of a file for another network is taken silently, as timm would."""
    path, state = tmp_path / "mae.pth", mae_state()
    torch.save({"model": state}, path)
    own = make(weights=str(path)).body.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    torch.save({f"encoder.{key}": value for key, value in state.items()}, path)
    with pytest.raises(InputError, match=r"mae\.pth: the checkpoint does not fit.*missing: cls_token"):
        make(weights=str(path))


def test_position_embedding_is_resized() -> None:
    model, state = make(), mae_state(grid=7)
    ramp = torch.linspace(0, 1, 7)
    state["pos_embed"][:, 1:] = (ramp[:, None] + 10 * ramp[None]).reshape(1, 49, 1).expand(1, 49, 48)
    model.load_body(state)
    loaded = model.body.pos_embed
    assert torch.equal(loaded[:, :1], state["pos_embed"][:, :1])  # the class token's stays
    grid = loaded[0, 1:, 0].view(14, 14)
    assert grid.diff(dim=0)[2:-2].min() > 0.05  # still rises down and, ten times as fast, to the right
    assert grid.diff(dim=1)[:, 2:-2].min() > 0.5
    assert grid.mean().item() == pytest.approx(5.5, abs=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.norm1.weight": None}, r"Missing key.*blocks\.1\.norm1\.weight"),
        ({"blocks.9.norm1.weight": torch.zeros(48)}, r"Unexpected key.*blocks\.9"),
        ({"norm.bias": torch.zeros(5)}, r"size mismatch for norm\.bias"),
        ({"pos_embed": torch.zeros(1, 50, 32)}, r"size mismatch for pos_embed"),
    ],
)
def test_unfit_checkpoint(change: dict[str, Any], message: str) -> None:
    state = {key: value for key, value in (mae_state() | change).items() if value is not None}
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        make().load_body(state)


def test_pyramid_has_vitdets_layers() -> None:
    """Parameters of ViTDet's pyramid for ViT-B: 3 transposed convolutions, 8 bias-free convolutions, 9 LayerNorms."""
    dim, out = 768, 256
    transposed = 2 * (4 * dim * dim // 2 + dim // 2) + 4 * (dim // 2) * (dim // 4) + dim // 4
    convolutions = out * (dim // 4 + dim // 2 + 2 * dim) + 4 * 9 * out * out
    norms = 2 * (dim // 2) + 8 * 2 * out
    parameters = sum(p.numel() for p in SimpleFeaturePyramid(dim, out).parameters())
    assert parameters == transposed + convolutions + norms
