"""Feature pre-training agrees with the reference numbers: pyramid, tap, predictions, losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from itpn_golden import close, filled, image, keys, load, tensor
from itpn_pretraining import flat, gradient_norms, load_official, official_shapes
from torch import Tensor, nn

from itpn.attention import AttentionBlock, set_fused
from itpn.distill import FeatureDistillPretrain
from itpn.hivit import HiViT
from itpn.neck import PyramidNeck
from itpn.relative import places_of
from itpn.sizes import itpn_backbone

OPTIONS: dict[str, Any] = {"rel_pos": "bias", "init_values": 0.1}


def tiny(**options: Any) -> FeatureDistillPretrain:
    backbone = HiViT(img_size=64, embed_dim=64, depths=(2, 1, 5), num_heads=4, **OPTIONS)
    return FeatureDistillPretrain(backbone, PyramidNeck(backbone.dims, 32), 24, **options)


def published(name: str, teacher_dim: int) -> FeatureDistillPretrain:
    backbone = itpn_backbone(name, **OPTIONS)
    assert isinstance(backbone, HiViT)
    return FeatureDistillPretrain(backbone, PyramidNeck(backbone.dims), teacher_dim)


def check(model: FeatureDistillPretrain, numbers: dict[str, Tensor], side: int, whole: bool) -> None:
    """All numbers of a case; arrays are stored as they are, or every 4999th value of them."""
    shown = (lambda x: x) if whole else flat
    images, mask = image(2, side, side), numbers["bool_masked_pos"].bool()
    output = model(images, mask, tensor("input.teacher", (2, mask[0].numel(), model.teacher_dim), 0))
    output.loss.backward()
    close(shown(output.prediction), numbers["out_main"])
    close(shown(output.tapped), numbers["out_aux"])
    close(output.losses["pyramid"], numbers["loss_1"], 1e-5)
    close(output.losses["tap"], numbers["loss_2"], 1e-5)
    close(output.loss, numbers["loss_1"] + numbers["loss_2"], 1e-5)
    with torch.no_grad():
        pyramid, tapped = model.encode(images, mask)
    for level, units in enumerate(pyramid):
        close(shown(units), numbers[f"pyramid{level}"])
    close(shown(tapped), numbers["aux"])
    gradient_norms(model, numbers)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_small(fused: bool) -> None:
    model, numbers = tiny(), load("tiny_clip_mim")
    load_official(model, filled("tiny_clip_mim"))
    set_fused(model, fused)
    check(model, numbers, 64, whole=True)
    assert numbers["no_grad_params"].numel() == 0


def test_masked_units_alone() -> None:
    model, numbers = tiny(supervise="masked"), load("tiny_clip_mim")
    load_official(model, filled("tiny_clip_mim"))
    output = model(image(2, 64, 64), numbers["bool_masked_pos"], tensor("input.teacher", (2, 16, 24), 0))
    close(output.loss, numbers["loss_masked_only"], 1e-5)


def test_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.init.trunc_normal_", lambda tensor, **_: tensor)  # every weight comes from the case
    model = published("itpn_base", 512)
    load_official(model, filled("clip_mim_base"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 88_738_288
    check(model, load("clip_mim_base"), 224, whole=False)


def test_large_has_the_authors_keys() -> None:
    with torch.device("meta"):
        model = published("itpn_large", 768)
    expected = {key: shape for key, (shape, _) in keys("clip_mim_large").items() if not key.endswith("_index")}
    assert official_shapes(model) == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == 307_452_904


def test_epsilons_of_the_norms() -> None:
    """Of the backbone's blocks 1e-6, of the extra blocks 1e-5; whole blocks are with their relative bias."""
    model, numbers = tiny(), load("eps")
    load_official(model, filled("tiny_clip_mim"))
    tokens = 0.003 * tensor("input.tokens", (1, 16, 64), 0)
    blocks: list[nn.Module] = [model.cls_pt_layers[0], model.backbone.blocks[9]]
    with torch.no_grad():
        for block, norm, whole in zip(blocks, ("cls_pt_norm1", "block9_norm1"), ("cls_pt_layer0", "block9")):
            assert isinstance(block, AttentionBlock)
            close(block.norm1(tokens), numbers[norm], 1e-5)
            close(block(tokens, places_of((4, 4))), numbers[whole], 1e-5)
