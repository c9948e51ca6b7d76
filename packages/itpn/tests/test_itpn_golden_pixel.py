"""Pixel pre-training agrees with the reference numbers: loss, pyramid, prediction and every gradient's norm."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from itpn_golden import close, filled, image, keys, load, tensor
from itpn_pretraining import flat, gradient_norms, load_official, official_shapes
from torch import Tensor

from itpn.attention import set_fused
from itpn.hivit import HiViT
from itpn.neck import PyramidNeck
from itpn.pixel import MaskedPyramidAutoencoder, patchify, pixel_loss, unpatchify
from itpn.sizes import itpn_backbone

TINY = {"img_size": 64, "embed_dim": 64, "depths": (2, 2, 3), "num_heads": 4}


def tiny(**options: Any) -> MaskedPyramidAutoencoder:
    backbone = HiViT(**{**TINY, **options})
    return MaskedPyramidAutoencoder(backbone, PyramidNeck(backbone.dims, 32, depth=2), 64, 2, 4)


def large(name: str) -> MaskedPyramidAutoencoder:
    backbone = itpn_backbone(name)
    assert isinstance(backbone, HiViT)
    return MaskedPyramidAutoencoder(backbone, PyramidNeck(backbone.dims, depth=2))


def noise(batch: int, units: int) -> Tensor:
    return tensor("input.noise", (batch, units), 0)


def check(model: MaskedPyramidAutoencoder, numbers: dict[str, Tensor], images: Tensor, whole: bool) -> None:
    """All numbers of a case; arrays are stored as they are, or every 4999th value of them."""
    shown = (lambda x: x) if whole else flat
    draws = noise(len(images), model.num_units)
    output = model(images, draws)
    output.loss.backward()
    for name in ("ids_keep", "ids_restore"):
        assert torch.equal(getattr(output.mask, name), numbers[name].long())
    assert torch.equal(output.mask.mask, numbers["mask"].bool())
    close(output.loss, numbers["loss"], 1e-5)
    with torch.no_grad():
        for level, units in enumerate(model.pyramid(images, output.mask.ids_keep)):
            close(shown(units), numbers[f"pyramid{level}"])
        prediction, _ = model.predict(images, draws)
    close(shown(prediction), numbers["pred"])
    picked = prediction[output.mask.mask].view(len(images), -1, prediction.shape[2])  # in the image's order
    order = output.mask.ids_removed.argsort(1)[:, :, None].expand_as(output.prediction)
    close(output.prediction.gather(1, order), picked, 1e-5)
    gradient_norms(model, numbers)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == ["decoder_pos_embed"]
    assert int(numbers["n_params_without_grad"]) == 1


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize(("name", "rel_pos"), [("tiny_pixel_mim", None), ("tiny_pixel_mim_rpe", "bias")])
def test_small(name: str, rel_pos: str | None, fused: bool) -> None:
    model, numbers = tiny(rel_pos=rel_pos), load(name)
    state = filled("tiny_pixel_mim")
    if rel_pos is not None:  # its file of keys is that of the other case: its tables are filled by their names
        tables = [key for key in model.state_dict() if key.endswith("relative_position_bias_table")]
        state |= {key.removeprefix("backbone."): tensor(key.removeprefix("backbone."), (49, 4), 0) for key in tables}
    load_official(model, state)
    set_fused(model, fused)
    check(model, numbers, image(2, 64, 64), whole=True)


def test_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.init.trunc_normal_", lambda tensor, **_: tensor)  # every weight comes from the case
    model, numbers = large("itpn_base"), load("pixel_mim_base")
    load_official(model, filled("pixel_mim_base"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 108_493_344
    check(model, numbers, image(2, 224, 224), whole=False)
    set_fused(model, False)
    with torch.no_grad():
        close(model(image(2, 224, 224), noise(2, 196)).loss, numbers["loss"], 1e-5)


def test_large_has_the_authors_keys() -> None:
    with torch.device("meta"):
        model = large("itpn_large")
    assert official_shapes(model) == {key: shape for key, (shape, _) in keys("pixel_mim_large").items()}
    assert sum(parameter.numel() for parameter in model.parameters()) == 318_339_808


def test_loss() -> None:
    numbers = load("pixel_loss")
    images, prediction = image(2, 64, 64, 3), tensor("input.pred", (2, 16, 768), 3)
    units, removed = patchify(images, 16), numbers["mask"].bool()
    assert torch.equal(units[:, :, ::8], numbers["patchify"])
    assert torch.equal(unpatchify(units, 16, (4, 4)), images)
    # the reference averages over all removed units of the batch
    for norm_pix, name in ((True, "loss_norm"), (False, "loss_raw")):
        close(pixel_loss(prediction[removed], units[removed], norm_pix), numbers[name], 1e-5)


def test_patches_of_some_units() -> None:
    images, ids = torch.rand(2, 3, 16, 24), torch.tensor([[5, 0], [2, 3]])
    some = patchify(images, 8, ids)
    assert torch.equal(some, patchify(images, 8)[torch.arange(2)[:, None], ids])
    assert torch.equal(unpatchify(patchify(images, 8), 8, (2, 3)), images)
    assert math.prod(some.shape) == 2 * 2 * 192
