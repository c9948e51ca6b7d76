"""The backbones, pyramids and feature maps against the authors' own, with fused and with explicit attention."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from itpn_golden import close, filled, image, load, parts
from torch import Tensor, nn

from itpn.attention import set_fused
from itpn.features import iTPNFeatures
from itpn.hivit import HiViT
from itpn.neck import PyramidNeck

TINY: dict[str, Any] = {"img_size": 64, "embed_dim": 64, "num_heads": 4, "num_classes": 10, "rel_pos": "bias"}
BASE: dict[str, Any] = {"num_classes": 1000, "rel_pos": "bias"}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "tiny_pixel_cls": {**TINY, "depths": (2, 2, 3)},
    "tiny_clip_cls": {**TINY, "depths": (2, 1, 5), "init_values": 0.1},
    "pixel_cls_base": BASE,
    "clip_cls_base": {**BASE, "init_values": 0.1},
}
DETECTION: dict[str, Any] = {"embed_dim": 64, "depths": (2, 1, 3), "num_heads": 4, "norm_eps": 1e-5}
DETECTORS: dict[str, dict[str, Any]] = {
    "tiny_det_pixel": DETECTION,
    "tiny_det_clip": {**DETECTION, "init_values": 0.1},
    "tiny_det_clip_rpe": {**DETECTION, "init_values": 0.1, "rel_pos": "decomposed"},
    "det_pixel_base": {"norm_eps": 1e-5},
    "det_clip_base": {"norm_eps": 1e-5, "init_values": 0.1},
}
SEGMENTER: dict[str, Any] = {**DETECTION, "img_size": 128, "pos_size": 224, "init_values": 0.1, "rel_pos": "bias"}


@contextmanager
def outputs_of(network: nn.Module, wanted: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What the ``wanted`` parts of a network computed."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.__setitem__(name, output)

    hooks = [module.register_forward_hook(keep(name)) for name, module in wanted.items()]
    yield found
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("case", CLASSIFIERS)
@torch.no_grad()
def test_classifiers(case: str, fused: bool) -> None:
    expected = load(case)
    network = HiViT(**CLASSIFIERS[case]).eval()
    network.load_state_dict(parts(filled(case))[0], strict=True)
    set_fused(network, fused)
    size = 16 * network.grid_size[0]
    wanted = {name: network.blocks[int(name[5:])] for name in expected if re.fullmatch(r"block\d+", name)}
    with outputs_of(network, {"patch_embed": network.patch_embed, **wanted}) as found:
        found["logits"] = network(image(2, size, size))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        thinned = array.ndim == 2 and name != "logits"
        close(found[name].flatten(1)[:, ::4999] if thinned else found[name], array)


def features(case: str, options: dict[str, Any], neck: dict[str, Any], **outs: Any) -> iTPNFeatures:
    """Backbone and pyramid of a case with its parameters."""
    backbone = HiViT(**options)
    built = iTPNFeatures(backbone, PyramidNeck(backbone.dims, norm_eps=1e-5, **neck), **outs).eval()
    of_backbone, of_neck = parts(filled(case))
    built.backbone.load_state_dict(of_backbone, strict=True)
    built.neck.load_state_dict(of_neck, strict=True)
    return built


def check_maps(network: iTPNFeatures, images: Tensor, expected: dict[str, Tensor], pick: Callable[..., Any]) -> None:
    maps = list(network(images).values())
    assert len(maps) == network.num_outs
    assert tuple(found.shape[1] for found in maps) == network.channels
    for level, found in enumerate(maps):
        assert list(found.shape) == expected[f"out{level}_shape"].tolist()
        close(found.abs().double().mean(), expected[f"out{level}_absmean"])
        close(pick(found), expected[f"out{level}"])


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("case", DETECTORS)
@torch.no_grad()
def test_detection_backbones(case: str, fused: bool) -> None:
    tiny = case.startswith("tiny")
    network = features(case, DETECTORS[case], {"dim": 32 if tiny else 256})
    set_fused(network, fused)
    assert network.strides == (4, 8, 16, 32, 64)
    if tiny:
        check_maps(network, image(2, 96, 160), load(case), lambda found: found[:, ::2])
    else:
        check_maps(network, image(1, 192, 256), load(case), lambda found: found.flatten(1)[:, ::997])


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@torch.no_grad()
def test_segmentation_backbone(fused: bool) -> None:
    outs = {"num_outs": 4, "extra": "maxpool", "concat_backbone": True}
    network = features("tiny_seg", SEGMENTER, {"dim": 32, "depth": 2}, **outs)
    set_fused(network, fused)
    assert network.channels == (48, 64, 96, 96)
    check_maps(network, image(2, 128, 128), load("tiny_seg"), lambda found: found[:, ::3])


@torch.no_grad()
def test_the_epsilons_of_the_norms() -> None:
    expected = load("eps")
    for name, case, options, size in [
        ("det_patch_embed", "tiny_det_pixel", DETECTORS["tiny_det_pixel"], (96, 160)),
        ("det_clip_patch_embed", "tiny_det_clip", DETECTORS["tiny_det_clip"], (96, 160)),
        ("seg_patch_embed", "tiny_seg", SEGMENTER, (128, 128)),
        ("cls_patch_embed", "tiny_pixel_cls", CLASSIFIERS["tiny_pixel_cls"], (64, 64)),
    ]:
        network = HiViT(**options).eval()
        state = parts(filled(case))[0]
        for key in ("patch_embed.proj.weight", "patch_embed.proj.bias"):
            state[key] = state[key] * 0.01
        network.load_state_dict(state, strict=True)
        units = network.embed_units(image(1, *size))
        close(units if name == "cls_patch_embed" else units[:, ::5], expected[name])
