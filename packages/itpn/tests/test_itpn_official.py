"""Checkpoints of the authors: every entry loads strictly and comes back, tables are resized, faults are named."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from itpn_golden import close, filled, image, keys, load, tensor
from torch import Tensor, nn

from itpn.distill import FeatureDistillPretrain
from itpn.fast import FastITPN
from itpn.features import iTPNFeatures
from itpn.hivit import HiViT
from itpn.identify import from_official, identify, summary
from itpn.neck import PyramidNeck
from itpn.official import (
    fused_qkv,
    infer_fpn_depth,
    load_backbone,
    load_pyramid,
    read_state,
    split_official,
    to_official,
)
from itpn.pixel import MaskedPyramidAutoencoder
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError

TINY: dict[str, Any] = {"img_size": 64, "embed_dim": 64, "num_heads": 4}
BASE: dict[str, Any] = {}
LARGE: dict[str, Any] = {"embed_dim": 768, "depths": (2, 2, 40), "num_heads": 12}
CLIP: dict[str, Any] = {"rel_pos": "bias", "init_values": 0.1}
TINY_FAST: dict[str, Any] = {**TINY, "depths": (2, 1, 3), "num_classes": 10}
TINY_DET: dict[str, Any] = {"embed_dim": 64, "num_heads": 4, "depths": (2, 1, 3)}


class Pyramid(nn.Module):
    """Backbone and pyramid, as detectors and segmenters hold them."""

    def __init__(self, options: dict[str, Any], dim: int, depth: int) -> None:
        super().__init__()
        network = HiViT(**options)
        self.features = iTPNFeatures(network, PyramidNeck(network.dims, dim, depth))
        self.backbone, self.neck = self.features.backbone, self.features.neck

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.features.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.features.load_state_dict(*args, **kwargs)


def pixel(options: dict[str, Any], dim: int = 256, **decoder: Any) -> nn.Module:
    network = HiViT(**options)
    return MaskedPyramidAutoencoder(network, PyramidNeck(network.dims, dim, 2), **decoder)


def clip(options: dict[str, Any], teacher_dim: int, dim: int = 256) -> nn.Module:
    network = HiViT(**options, **CLIP)
    return FeatureDistillPretrain(network, PyramidNeck(network.dims, dim, 1), teacher_dim)


def fast(**options: Any) -> nn.Module:
    return FastITPN(**{"num_classes": 1000, **options})


CASES: dict[str, Callable[[], nn.Module]] = {
    "pixel_cls_base": lambda: HiViT(**BASE, num_classes=1000, rel_pos="bias"),
    "pixel_cls_large": lambda: HiViT(**LARGE, num_classes=1000, rel_pos="bias"),
    "clip_cls_base": lambda: HiViT(**BASE, num_classes=1000, **CLIP),
    "clip_cls_large": lambda: HiViT(**LARGE, num_classes=1000, **CLIP),
    "tiny_pixel_cls": lambda: HiViT(**TINY, depths=(2, 2, 3), num_classes=10, rel_pos="bias"),
    "tiny_clip_cls": lambda: HiViT(**TINY, depths=(2, 1, 5), num_classes=10, **CLIP),
    "pixel_mim_base": lambda: pixel(BASE),
    "pixel_mim_large": lambda: pixel(LARGE),
    "tiny_pixel_mim": lambda: pixel(
        {**TINY, "depths": (2, 2, 3)}, 32, decoder_dim=64, decoder_depth=2, decoder_heads=4
    ),
    "clip_mim_base": lambda: clip(BASE, 512),
    "clip_mim_large": lambda: clip(LARGE, 768),
    "tiny_clip_mim": lambda: clip({**TINY, "depths": (2, 1, 5)}, 24, 32),
    "fast_tiny": lambda: fast(embed_dim=384, depths=(1, 1, 12), num_heads=6),
    "fast_small": lambda: fast(embed_dim=384, depths=(2, 2, 20), num_heads=6),
    "fast_base": fast,
    "fast_large": lambda: fast(**LARGE),
    "tiny_fast_default": lambda: fast(**TINY_FAST),
    "tiny_fast_final_norm": lambda: fast(**TINY_FAST, mean_pooling=False),
    "tiny_fast_no_gamma": lambda: fast(**TINY_FAST, init_values=None),
    "tiny_fast_cls_rel": lambda: fast(**TINY_FAST, cls_token=True, rel_pos="bias"),
    "tiny_fast_cls_shared": lambda: fast(**TINY_FAST, cls_token=True, rel_pos="shared"),
    "tiny_fast_cls_decoupled": lambda: fast(**TINY_FAST, cls_token=True, rel_pos="decoupled"),
    "tiny_fast_plain_mlp_fused_qkv": lambda: fast(**TINY_FAST, subln=False, swiglu=False),
    "tiny_fast_patch_norm": lambda: fast(**TINY_FAST, patch_norm=True),
    "det_pixel_base": lambda: Pyramid(BASE, 256, 1),
    "det_clip_base": lambda: Pyramid({"init_values": 0.1}, 256, 1),
    "det_clip_large": lambda: Pyramid({**LARGE, "init_values": 0.1, "rel_pos": "decomposed"}, 256, 1),
    "tiny_det_pixel": lambda: Pyramid(TINY_DET, 32, 1),
    "tiny_det_clip": lambda: Pyramid({**TINY_DET, "init_values": 0.1}, 32, 1),
    "tiny_det_clip_rpe": lambda: Pyramid({**TINY_DET, "init_values": 0.1, "rel_pos": "decomposed"}, 32, 1),
    "seg_pixel_base": lambda: Pyramid({"img_size": 512, "pos_size": 224, "rel_pos": "bias"}, 256, 2),
    "tiny_seg": lambda: Pyramid({**TINY_DET, "img_size": 128, "pos_size": 224, **CLIP}, 32, 2),
}


def to_ours(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A flat state dict as a model holds it."""
    backbone, neck, heads = split_official(state)
    if isinstance(model, (HiViT, FastITPN)):
        return {**backbone, **heads}
    inside = {f"backbone.{key}": value for key, value in backbone.items()}
    return {**inside, **{f"neck.{key}": value for key, value in neck.items()}, **heads}


@pytest.mark.parametrize("case", CASES)
def test_every_list_of_entries_loads_strictly_and_comes_back(case: str) -> None:
    with torch.device("meta"):
        model = CASES[case]()
        state = {key: torch.empty(shape, dtype=kind) for key, (shape, kind) in keys(case).items()}
    model.load_state_dict(to_ours(state, model), strict=True)
    found = {key: (tuple(value.shape), value.dtype) for key, value in to_official(model).items()}
    assert found == keys(case)


@pytest.mark.parametrize("case", ["tiny_pixel_mim", "tiny_clip_mim", "tiny_seg", "tiny_fast_default"])
def test_values_come_back(case: str) -> None:
    model, state = CASES[case](), filled(case)
    model.load_state_dict(to_ours(state, model), strict=True)
    found = to_official(model)
    for key, value in state.items():
        assert key.endswith("_index") or torch.equal(found[key], value), key


def test_index_of_relative_positions_comes_back() -> None:
    with torch.device("cpu"):
        found = to_official(HiViT(embed_dim=16, depths=(1, 1, 1), num_heads=1, rel_pos="bias"))
    assert torch.equal(found["relative_position_index"].short(), load("position")["rel_index_14"])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("case", ["tiny_pixel_mim", "tiny_clip_mim"])
def test_pyramid_of_any_depth_from_pre_training(case: str, depth: int, tmp_path: Path) -> None:
    state = filled(case)
    torch.save({"model": state}, tmp_path / "pretrained.pth")
    published = infer_fpn_depth(tmp_path / "pretrained.pth")
    assert published == (2 if case == "tiny_pixel_mim" else 1)
    scale = None if case == "tiny_pixel_mim" else 0.1
    depths = (2, 2, 3) if case == "tiny_pixel_mim" else (2, 1, 5)
    backbone = HiViT(**{**TINY, "depths": depths, "init_values": scale, "rel_pos": "bias"})
    neck = PyramidNeck(backbone.dims, 32, depth)
    report = load_pyramid(backbone, neck, tmp_path / "pretrained.pth")
    second = {f"{step}.1.{rest}" for step in ("block_16to8", "block_8to4") for rest in neck.block_8to4[0].state_dict()}
    tables = {key for key in backbone.state_dict() if key.endswith("bias_table")} if case == "tiny_pixel_mim" else set()
    assert set(report.missing) == (second if depth > published else set()) | tables
    heads = set(split_official(state).heads)
    assert set(report.unexpected) == (second if depth < published else set()) | heads
    for name, value in {**backbone.state_dict(), **neck.state_dict()}.items():
        if name in tables:
            assert not value.any()
        elif name not in report.missing:
            assert torch.equal(value, state[name]), name


def test_detector_of_the_authors_and_run_of_ours(tmp_path: Path) -> None:
    official = filled("tiny_det_pixel")
    torch.save({"state_dict": {**{f"backbone.{k}": v for k, v in official.items()}, "rpn_head.w": torch.ones(1)}},
               tmp_path / "detector.pth")  # fmt: skip
    model = CASES["tiny_det_pixel"]()
    model.load_state_dict(to_ours(official, model))
    run = tmp_path / "run"
    run.mkdir()
    ours = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    save_weights({**ours, "rpn.w": torch.ones(1)}, run / "model.safetensors")
    for path, head in ((tmp_path / "detector.pth", "rpn_head.w"), (run, "rpn.w")):
        backbone = HiViT(**TINY_DET)
        neck = PyramidNeck(backbone.dims, 32, 1)
        assert load_pyramid(backbone, neck, path) == ([], [head], [])
        assert torch.equal(neck.fpn_modules[0].norm2.weight, official["fpn_modules.0.norm2.weight"])  # type: ignore
        assert torch.equal(backbone.absolute_pos_embed, official["absolute_pos_embed"])


@pytest.mark.parametrize("container", ["bare", "model", "module", "ddp"])
def test_containers(container: str, tmp_path: Path) -> None:
    state = filled("tiny_fast_default")
    extra = {"args": argparse.Namespace(model="fast"), "epoch": 3, "optimizer": {"state": {}}}
    content: Any = {"bare": state, "ddp": {f"module.{key}": value for key, value in state.items()}}.get(
        container, {container: state, **extra}
    )
    torch.save(content, tmp_path / "weights.pt")
    assert read_state(tmp_path / "weights.pt").keys() == state.keys()


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3)])
def test_positions_of_another_size(kind: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    state = filled("tiny_det_pixel")
    state["absolute_pos_embed"] = tensor("absolute_pos_embed", (1, 196, 64))
    torch.save({"model": {key: value.to(kind) for key, value in state.items()}}, tmp_path / "weights.pth")
    backbone = HiViT(**{**TINY_DET, "img_size": 256})
    load_backbone(backbone, tmp_path / "weights.pth")
    assert backbone.absolute_pos_embed.dtype == torch.float32
    close(100 * backbone.absolute_pos_embed[..., ::4], load("pos_interp")["ckpt_16"], tolerance)


def test_relative_tables_of_another_size(tmp_path: Path) -> None:
    options: dict[str, Any] = {"embed_dim": 64, "depths": (1, 1, 1), "num_heads": 4, "rel_pos": "bias"}
    pretrained, backbone = HiViT(**options), HiViT(**options, img_size=512, pos_size=224)
    table = "blocks.4.attn.relative_position_bias_table"
    state = {**pretrained.state_dict(), table: tensor("blocks.8.attn.relative_position_bias_table", (729, 4))}
    state["absolute_pos_embed"] = state["absolute_pos_embed"][:, :196]
    save_weights(state, tmp_path / "weights.safetensors")
    load_backbone(backbone, tmp_path / "weights.safetensors")
    assert backbone.state_dict()[table].shape == (63 * 63, 4)


@torch.no_grad()
def test_fast_positions_of_another_size(tmp_path: Path) -> None:
    state = filled("tiny_fast_cls_rel")
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"blocks\.5\.attn\.relative_position_bias_table"):
        load_backbone(
            FastITPN(**{**TINY_FAST, "img_size": 96}, cls_token=True, rel_pos="bias"), tmp_path / "weights.pt"
        )
    torch.save(filled("tiny_fast_default"), tmp_path / "weights.pt")
    small, large = (FastITPN(**{**TINY_FAST, "img_size": size}).eval() for size in (64, 96))
    for network in (small, large):
        report = load_backbone(network, tmp_path / "weights.pt")
        assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    close(large.forward_features(image(1, 96, 96)), small.forward_features(image(1, 96, 96)), 1e-5)


@torch.no_grad()
def test_one_projection_of_queries_keys_and_values() -> None:
    state = filled("tiny_fast_default")
    fused = fused_qkv(state)
    network = FastITPN(**TINY_FAST)
    network.load_state_dict(state)
    x = tensor("input.tokens", (2, 16, 64))
    attention: Any = network.blocks[6].attn
    expected = torch.cat(attention._projected(x), -1)
    weight, bias = fused["blocks.6.attn.qkv.weight"], fused["blocks.6.attn.qkv.bias"]
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), expected, rtol=1e-5, atol=1e-5)
    assert not any(part in key for key in fused for part in ("q_proj", "k_proj", "v_proj", "q_bias", "v_bias"))
    assert (
        fused.keys() - {f"blocks.{i}.attn.qkv.{kind}" for i in (5, 6, 7) for kind in ("weight", "bias")} <= state.keys()
    )


@torch.no_grad()
@pytest.mark.parametrize("case", ["tiny_clip_cls", "tiny_fast_default"])
def test_network_of_a_checkpoint(case: str, tmp_path: Path) -> None:
    torch.save({"model": filled(case)}, tmp_path / "weights.pth")
    network = from_official(tmp_path / "weights.pth", num_heads=4).eval()
    numbers = load("tiny_fast" if "fast" in case else case)
    close(network(image(2, 64, 64)), numbers["default/logits" if "fast" in case else "logits"])
    assert from_official(tmp_path / "weights.pth", num_heads=4, num_classes=0, img_size=96).grid_size == (6, 6)


def test_report_in_words(tmp_path: Path) -> None:
    torch.save({"model": filled("tiny_pixel_mim")}, tmp_path / "weights.pth")
    backbone = HiViT(**TINY, depths=(2, 2, 3), rel_pos="bias", num_classes=5)
    found = summary(load_backbone(backbone, tmp_path / "weights.pth"))
    assert found.startswith("fresh: relative position tables (3), classifier (4); not used: pyramid (")
    assert "decoder of pixels" in found


def fault(path: Path, change: dict[str, Any] | None = None, **options: Any) -> str:
    state = filled("tiny_clip_mim")
    for key, value in (change or {}).items():
        state.pop(key) if value is None else state.update({key: value})
    torch.save({"model": state}, path / "weights.pth")
    with pytest.raises(InputError) as caught:
        load_backbone(HiViT(**{**TINY, "depths": (2, 1, 5), **CLIP, **options}), path / "weights.pth")
    assert str(path / "weights.pth") in str(caught.value)
    return str(caught.value)


def test_faults_of_a_backbone(tmp_path: Path) -> None:
    assert "1 missing: blocks.6.norm1.weight" in fault(tmp_path, {"blocks.6.norm1.weight": None})
    assert "init_values=0.1" in fault(tmp_path, init_values=None)
    assert "unexpected: blocks.9.gamma_1" in fault(tmp_path, depths=(2, 1, 4))
    assert "misshaped: absolute_pos_embed" in fault(tmp_path, embed_dim=128)
    assert "no square grid" in fault(tmp_path, {"absolute_pos_embed": torch.zeros(1, 15, 64)})


def test_fast_files_need_layer_scales(tmp_path: Path) -> None:
    for case, scale in (("tiny_fast_default", None), ("tiny_fast_no_gamma", 0.1)):
        torch.save({"module": filled(case)}, tmp_path / "weights.pt")
        with pytest.raises(
            InputError, match="build the model with init_values=" + ("0.1" if scale is None else "None")
        ):
            load_backbone(FastITPN(**TINY_FAST, init_values=scale), tmp_path / "weights.pt")


def test_fast_pre_training_with_its_other_entries(tmp_path: Path) -> None:
    state = {
        key: value for key, value in filled("tiny_fast_default").items() if not key.startswith(("fc_norm", "head"))
    }
    others = {"mask_token": torch.ones(1, 1, 64), "align_dim_16tofpn.weight": torch.ones(32, 64, 1, 1)}
    others |= {"norm.weight": torch.ones(64), "lm_head.weight": torch.ones(8, 64)}
    torch.save({"module": {**state, **others}}, tmp_path / "weights.pt")
    report = load_backbone(FastITPN(**{**TINY_FAST, "num_classes": 0}), tmp_path / "weights.pt")
    assert (report.missing, set(report.unexpected)) == ([], set(others))


def test_faults_of_a_pyramid(tmp_path: Path) -> None:
    torch.save(filled("tiny_clip_cls"), tmp_path / "classifier.pth")
    backbone = HiViT(**TINY, depths=(2, 1, 5), **CLIP)
    with pytest.raises(InputError, match="holds no pyramid"):
        load_pyramid(backbone, PyramidNeck(backbone.dims, 32), tmp_path / "classifier.pth")
    with pytest.raises(InputError, match="holds no pyramid"):
        infer_fpn_depth(tmp_path / "classifier.pth")
    torch.save(filled("tiny_clip_mim"), tmp_path / "pretrained.pth")
    with pytest.raises(InputError, match="does not fit the pyramid"):
        load_pyramid(backbone, PyramidNeck(backbone.dims, 16), tmp_path / "pretrained.pth")


@pytest.mark.parametrize("case", CASES)
def test_every_family_is_identified(case: str) -> None:
    state = {key: torch.empty(shape, dtype=kind, device="meta") for key, (shape, kind) in keys(case).items()}
    found, model = identify(state, case), CASES[case]
    with torch.device("meta"):
        backbone: Any = next(part for part in model().modules() if isinstance(part, (HiViT, FastITPN)))
    assert found.fast == isinstance(backbone, FastITPN)
    for name in ("embed_dim", "depths", "patch_size"):
        assert found.options[name] == getattr(backbone, name)
    if "tiny" not in case or case == "fast_tiny":
        kind = "large" if "large" in case else "base" if "base" in case else case.removeprefix("fast_")
        assert found.size == ("fast_itpn_" if found.fast else "itpn_") + kind
        assert found.options["num_heads"] == backbone.num_heads
