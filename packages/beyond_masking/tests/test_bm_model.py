"""What holds for every task: masks, draws, the loss at the start, pictures, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bm_golden import close

from beyond_masking import (
    Degradation,
    GeneratorDraws,
    KeyedDraws,
    PixelTarget,
    RandomBlur,
    TokenPretrainModel,
    ZoomIn,
    ZoomOut,
    build_degradation,
)
from beyond_masking.draws import batch_draws
from beyond_masking.model import DEGRADATIONS
from beyond_masking.targets import area_matrix, area_resize
from vireo.backbones import random_masking

SIZES: dict[str, Any] = {"img_size": 28, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
SIZES |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
KEYS = torch.tensor([11, 12, 13, 14])


def images_for(degradation: Degradation, batch: int = 4) -> torch.Tensor:
    """Smooth random pictures: resizing hardly changes their variance."""
    coarse = torch.randn(batch, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (degradation.crop_size, degradation.crop_size), mode="bicubic")


@pytest.mark.parametrize("mask_ratio", [0, 0.75])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_task_learns_with_and_without_a_mask(name: str, mask_ratio: float) -> None:
    torch.manual_seed(0)
    model = TokenPretrainModel(name, mask_ratio, **SIZES)
    images = images_for(model.degradation)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        output = model(images, draws=batch_draws(KEYS, 0, 0, 0))
        optimizer.zero_grad()
        output.loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)  # all take part: DDP needs it
        optimizer.step()
        losses.append(output.loss.item())
    # near 1, the variance of a normalised patch; more with an edge, less where patches are shrunk before comparing
    assert (0.3 if name == "zoomed_out" else 0.9) < losses[0] < 1.8
    assert losses[-1] < losses[0] - 0.002
    assert (output.mask is None) == (mask_ratio == 0)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_draws_belong_to_images_and_batches(name: str) -> None:
    """An image is degraded alike in any company; only what is drawn once a batch is the batch's."""
    degradation = build_degradation(name, 28)
    images = images_for(degradation)
    together = degradation(images, draws=batch_draws(KEYS, 0, 3, 5)).inputs
    halves = [
        degradation(images[half], draws=batch_draws(KEYS[half], 0, 3, 5)).inputs for half in (slice(2), slice(2, 4))
    ]
    close(torch.cat(halves), together, 1e-5)
    assert together.shape == (4, degradation.in_chans, 28, 28)
    if name in ("distorted", "blurred"):
        other = degradation(images, draws=batch_draws(KEYS + 100, 0, 3, 5)).inputs
        assert not torch.allclose(other, together, atol=1e-3)
    if name in ("zoomed_out", "decolorized"):
        assert torch.equal(degradation(images, draws=batch_draws(KEYS + 100, 0, 3, 5)).inputs, together)
        assert not torch.allclose(degradation(images, draws=batch_draws(KEYS, 0, 3, 6)).inputs, together, atol=1e-3)
        for_each = build_degradation(name, 28, per_sample=True)
        params = for_each.draw(batch_draws(KEYS, 0, 3, 5))
        assert len(params) == 4
        assert len(params.unique(dim=0)) == 4
        one_by_one = [degradation(images[i : i + 1], params[i : i + 1]).inputs for i in range(4)]
        close(for_each(images, params).inputs, torch.cat(one_by_one), 1e-6)


def test_normal_numbers_are_normal() -> None:
    keys = torch.arange(2000)
    for numbers in (
        KeyedDraws(keys, keys[:1]).normal("x", 50),
        GeneratorDraws(2000, generator=torch.Generator().manual_seed(0)).normal("x", 50),
    ):
        assert abs(float(numbers.mean())) < 0.02
        assert abs(float(numbers.std()) - 1) < 0.02
        assert abs(float((numbers.abs() < 1).float().mean()) - 0.6827) < 0.005
    shared = KeyedDraws(keys, keys[:1]).normal("x", 5, shared=True)
    assert shared.shape == (1, 5)


def test_zoomed_out_draws_every_place() -> None:
    draws = GeneratorDraws(4000, generator=torch.Generator().manual_seed(0))
    places = ZoomOut(20, 28, per_sample=True).draw(draws)
    assert (int(places.min()), int(places.max())) == (0, 7)  # the place 8 itself is left out, as published
    counts = places.flatten().bincount()
    assert float(counts.max() / counts.min()) < 1.25


def test_depthwise_blur_keeps_brightness() -> None:
    blur = RandomBlur(28, mode="depthwise", bias=False)
    flat = torch.full((2, 3, 28, 28), 0.7)
    close(blur(flat).inputs[:, :, 4:-4, 4:-4], flat[:, :, 4:-4, 4:-4], 1e-5)


def test_edge_loss_is_that_of_the_strips() -> None:
    """Against enlarging everything and cutting out the four strips; both reductions."""
    target, generator = PixelTarget(4), torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 36, 36, generator=generator)
    prediction = torch.randn(2, 49, 48, generator=generator)
    from beyond_masking.targets import unpatchify

    enlarge = area_matrix(36, 28)
    shrunk = area_resize(images, area_matrix(28, 36))
    error = (area_resize(unpatchify(prediction, 4), enlarge) - area_resize(unpatchify(target(shrunk), 4), enlarge)) ** 2
    strips = [error[:, :, :4], error[:, :, -4:], error[:, :, 4:-4, :4], error[:, :, 4:-4, -4:]]
    summed = ZoomIn(28, 36).losses(prediction, images, None, None, target)["loss_edge"]
    averaged = ZoomIn(28, 36, edge_reduction="mean").losses(prediction, images, None, None, target)["loss_edge"]
    close(summed, sum(strip.mean() for strip in strips), 1e-5)
    close(averaged, sum(strip.sum() for strip in strips) / sum(strip.numel() for strip in strips), 1e-5)


@pytest.mark.parametrize("name", ["zoomed_in", "zoomed_out"])
def test_masked_patches_alone_count_in_the_centre(name: str) -> None:
    degradation = build_degradation(name, 28)
    images, target = images_for(degradation, 2), PixelTarget(4)
    params = torch.tensor([[3, 5]]) if name == "zoomed_out" else None
    mask = random_masking(torch.rand(2, 49, generator=torch.Generator().manual_seed(1)), 0.5)
    prediction = torch.randn(2, 49, 48, generator=torch.Generator().manual_seed(2))
    part = "loss_center" if name == "zoomed_in" else "loss"
    masked, every = (degradation.losses(prediction, images, params, m, target)[part] for m in (mask, None))
    rest = mask._replace(mask=~mask.mask)
    visible = degradation.losses(prediction, images, params, rest, target)[part]
    share = float(mask.mask.float().mean())
    close(share * masked + (1 - share) * visible, every, 1e-5)
    assert abs(float(masked - visible)) > 1e-4


@pytest.mark.parametrize("name", ["none", "zoomed_in", "zoomed_out", "decolorized"])
def test_a_perfect_prediction_gives_the_picture_back(name: str) -> None:
    model = TokenPretrainModel(name, 0.75, **SIZES)
    images = 0.5 * images_for(model.degradation, 2)
    seen = model.degradation.seen_of(images)
    parts = model.reconstruct(images, draws=batch_draws(KEYS[:2], 0, 0, 0))
    close(model.target.denormalize(model.target(seen), seen), parts["target"], 1e-5)
    assert {key: value.shape[2] for key, value in parts.items()} == {
        "original": model.crop_size,
        "input": 28,
        "prediction": 28,
        "target": 28,
    }
    assert all(float(value.min()) >= 0 and float(value.max()) <= 1 for value in parts.values())


def test_raw_pixels_as_target() -> None:
    model = TokenPretrainModel("none", 0.75, normalize_target=False, **SIZES)
    images = images_for(model.degradation, 1)
    flat = model.target(images)
    pixels = images * model.target.std + model.target.mean
    close(flat[0, 8].view(4, 4, 3), pixels[0, :, 4:8, 4:8].permute(1, 2, 0), 1e-6)


def test_export_and_reload(tmp_path: Path) -> None:
    model = TokenPretrainModel("zoomed_in", 0.75, **SIZES)
    model.save_pretrained(tmp_path)
    again = TokenPretrainModel.from_pretrained(tmp_path)
    assert (again.mask_ratio, again.task, again.crop_size) == (0.75, "zoomed-in, 75 % masked", 36)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("init", ["published", "xavier"])
def test_initialisation(init: str) -> None:
    torch.manual_seed(0)
    model = TokenPretrainModel("none", 0.75, init=init, **{**SIZES, "embed_dim": 192, "depth": 2})  # type: ignore[arg-type]
    fc1: Any = model.encoder.blocks[0].mlp.fc1  # type: ignore[union-attr]
    std, most = float(fc1.weight.detach().std()), float(fc1.weight.detach().abs().max())
    if init == "published":
        assert most <= 0.02
        assert std == pytest.approx(0.0108, rel=0.02)
    else:
        limit = (6 / (192 + 768)) ** 0.5
        assert limit * 0.99 < most <= limit
    assert not fc1.bias.any()
    embed = model.decoder.embed.weight.detach().abs().max()
    assert float(embed) > 0.06  # 1 / sqrt(192) by torch's default, wider by Xavier
    assert 0 < float(model.decoder.mask_token.detach().abs().max()) <= 0.02
