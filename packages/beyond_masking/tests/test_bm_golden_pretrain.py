"""Whole pre-training models agree with the reference numbers: encoder, prediction, losses and gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from bm_golden import close, load, stats, tensor
from bm_networks import filled, image, load_official, mask_noise, named_parameters, norms, official_state
from torch import Tensor

from beyond_masking import TokenPretrainModel, pretrain_vit_base
from beyond_masking.degradations import RandomBlur


class Case(NamedTuple):
    """A reference case: its network, its inputs, and how close it must come."""

    seed: int
    degradation: str
    mask_ratio: float
    batch: int
    side: int
    keys: str | None = None
    absolute: float = 5e-5


CASES = {
    "pretrain_zoomed_in_base_mask75": Case(101, "zoomed_in", 0.75, 2, 288, "pretrain_zoomed_in_base"),
    "pretrain_zoomed_in_base_nomask": Case(102, "zoomed_in", 0, 1, 288, "pretrain_zoomed_in_base"),
    "pretrain_zoomed_out_base_mask75": Case(103, "zoomed_out", 0.75, 2, 160, "pretrain_zoomed_out_base"),
    "pretrain_zoomed_out_base_nomask": Case(104, "zoomed_out", 0, 1, 160, "pretrain_zoomed_out_base"),
    "pretrain_distorted_base": Case(105, "distorted", 0, 2, 224, "pretrain_distorted_base", 1e-4),
    "pretrain_blurred_base": Case(106, "blurred", 0, 1, 224, "pretrain_blurred_base"),
    "pretrain_decolorized_base": Case(107, "decolorized", 0, 2, 224, "pretrain_decolorized_base"),
    "pretrain_mae_base_mask75": Case(108, "none", 0.75, 2, 224),
    "composed_distorted_mask75": Case(109, "distorted", 0.75, 1, 224, None, 1e-4),
    "composed_blurred_mask75": Case(110, "blurred", 0.75, 1, 224),
}
PLACES = {"pretrain_zoomed_out_base_mask75": [[11, 50]], "pretrain_zoomed_out_base_nomask": [[0, 63]]}


def parameters(name: str, case: Case, numbers: dict[str, Tensor], model: TokenPretrainModel) -> Any:
    """The parameters of the degradation that the case states."""
    if name in PLACES:
        return torch.tensor(PLACES[name])
    if case.degradation == "distorted":
        return numbers.get("params", torch.tensor([[0.4, -0.3, 0.2]]))
    if case.degradation == "decolorized":
        return numbers["gray_weights"][None]
    if case.degradation == "blurred":
        assert isinstance(model.degradation, RandomBlur)
        assert model.degradation.bias is not None
        model.degradation.bias.copy_(tensor("input.blur_bias", (3,), case.seed) * 0.05)
        return (tensor("input.blur_weight", (3, 3, 7, 7), case.seed) * 0.02 + 1 / 49)[None]
    return None


@pytest.mark.parametrize("name", CASES)
def test_pretraining(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # every weight comes from the case: drawing 93 million of them twice takes longer than the test
    monkeypatch.setattr("beyond_masking.model.initialize", lambda *_: None)
    monkeypatch.setattr("timm.models.vision_transformer.trunc_normal_", lambda tensor, **_: tensor, raising=False)
    case, numbers = CASES[name], load(name)
    model = pretrain_vit_base(case.degradation, case.mask_ratio)
    if case.keys is None:
        filled(model, case.seed)
    else:
        load_official(model, official_state(case.keys, case.seed))
    images = image(case.batch, case.side, case.seed)
    noise = mask_noise(case.batch, case.seed) if case.mask_ratio else None
    params = parameters(name, case, numbers, model)

    encoded: list[Tensor] = []
    whole: list[Tensor] = []
    hook = model.encoder.norm.register_forward_hook(lambda _module, _args, out: encoded.append(out))
    if not model.degradation.needs_all:  # otherwise the decoder computes what is judged alone
        with torch.no_grad():
            inputs = model.degradation(images, params).inputs
            mask = model._mask(noise, None)  # type: ignore[arg-type]
            tokens = model.encoder.forward_visible(inputs, None if mask is None else mask.ids_keep)
            whole.append(model.decoder(tokens, mask))
    output = model(images, params, noise)
    hook.remove()
    output.loss.backward()
    prediction = whole[0] if whole else output.prediction

    if "enc" in numbers:
        close(encoded[-1][:, ::7, ::29], numbers["enc"], case.absolute)
    if "pred" in numbers:
        close(prediction[:, ::13, ::37], numbers["pred"], case.absolute)
        close(stats(prediction), numbers["pred_stats"], case.absolute)
    if "gray" in numbers:
        close(model.degradation(images, params).inputs[:, :, ::7, ::7], numbers["gray"], 1e-6)
    if output.mask is not None:
        assert torch.equal(output.mask.mask, numbers["mask"].bool())
        if "ids_keep" in numbers:
            assert torch.equal(output.mask.ids_keep, numbers["ids_keep"].long())
    if "pred_masked" in numbers:
        assert output.mask is not None
        removed = prediction[output.mask.mask].view(case.batch, -1, prediction.shape[2])
        close(removed[:, ::13, ::37], numbers["pred_masked"], case.absolute)
    if whole and output.mask is not None:  # the short way decodes the same numbers
        picked = prediction.gather(1, output.mask.ids_removed[:, :, None].expand_as(output.prediction))
        close(output.prediction, picked, 1e-5)

    close(output.loss, numbers["loss"], 1e-5)
    for part in ("loss_center", "loss_edge"):
        if part in numbers:
            close(output.losses[part], numbers[part], 1e-5)
    expected = numbers["grad_norms"]
    found = norms(named_parameters(model, lambda parameter: parameter.grad))
    close(found, expected, 1e-5 * float(expected.max()))
    patch, head = model.encoder.patch_embed.proj.weight.grad, model.decoder.head.weight.grad
    assert patch is not None
    assert head is not None
    scale = 1e-5 * float(expected.max())
    close(patch.flatten(1)[::97, ::61], numbers["grad_patch_embed"], scale)
    close(head[::61, ::29], numbers["grad_head"], scale)


TINY = {"embed_dim": 64, "depth": 2, "num_heads": 4, "decoder_dim": 48, "decoder_depth": 1, "decoder_heads": 3}


@pytest.mark.parametrize(
    ("name", "degradation", "side", "seed"),
    [("train_steps_tiny_zoomed_in", "zoomed_in", 288, 210), ("train_steps_tiny_zoomed_out", "zoomed_out", 160, 211)],
)
def test_four_training_steps(name: str, degradation: str, side: int, seed: int) -> None:
    from vireo.engine.layer_decay import weight_decay_groups

    numbers = load(name)
    model = filled(TokenPretrainModel(degradation, 0.75, **TINY), seed)  # type: ignore[arg-type]
    groups = weight_decay_groups(model, weight_decay=0.05, lr=1e-3, skip=("decoder.mask_token",))
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    for step, expected in enumerate(numbers["losses"]):
        params = torch.tensor([[7 * step, 60 - 11 * step]]) if degradation == "zoomed_out" else None
        output = model(image(4, side, seed + step), params, mask_noise(4, seed + step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        parts = [*output.losses.values(), output.loss] if degradation == "zoomed_in" else [output.loss]
        close(torch.stack(parts), expected, 1e-5)
    close(norms(named_parameters(model)), numbers["param_norms"], 1e-5 * float(numbers["param_norms"].max()))
    close(model.decoder.head.weight[::61, ::5], numbers["head_weight"], 1e-5)
    qkv = model.encoder.blocks[0].attn.qkv
    assert not qkv.bias.chunk(3)[1].any()  # the keys have none, and get none
