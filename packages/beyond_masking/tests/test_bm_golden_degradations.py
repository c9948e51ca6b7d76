"""Degradations, targets, positions and masks agree with the reference numbers."""

from __future__ import annotations

import pytest
import torch
from bm_golden import close, images_u8, load, stats, tensor

from beyond_masking import Desaturate, Fisheye, PixelTarget, RandomBlur, RandomGray, ZoomIn, ZoomOut
from beyond_masking.hsv import desaturated, rgb_to_hsv
from beyond_masking.targets import IMAGENET_MEAN, IMAGENET_STD, area_matrix, area_resize, patchify, unpatchify
from vireo.backbones.masking import gather_tokens, random_masking
from vireo.backbones.positions import sinusoid_table


def image(batch: int, side: int, seed: int, channels: int = 3) -> torch.Tensor:
    return tensor("input.image", (batch, channels, side, side), seed)


@pytest.mark.parametrize("dim", [768, 384, 512, 1024, 192])
def test_pos_embed(dim: int) -> None:
    case = load("pos_embed")
    table = sinusoid_table(196, dim)
    close(table[::13, :: dim // 64], case[f"pos_196x{dim}"], 1e-6)
    close(stats(table), case[f"stats_196x{dim}"], 1e-6)


@pytest.mark.parametrize("ratio", ["0.75", "0.6", "0.5", "0.9"])
def test_masking(ratio: str) -> None:
    case = load("masking")
    mask = random_masking(tensor("input.mask_noise", (2, 196), 201), float(ratio))
    assert torch.equal(mask.mask, case[f"sample_mask_{ratio}"].bool())
    assert torch.equal(mask.ids_keep, case[f"sample_keep_{ratio}"].long())
    assert torch.equal(mask.ids_restore, case[f"sample_restore_{ratio}"].long())
    kept = gather_tokens(tensor("input.tokens", (2, 196, 8), 201), mask.ids_keep)
    assert torch.equal(kept[:, ::5], case[f"sample_kept_tokens_{ratio}"])
    # the other generator of the published code, which its encoder ignores, rounds the other way round
    assert {int(row.sum()) for row in case[f"random_generator_{ratio}"]} == {int(float(ratio) * 196)}


@pytest.mark.parametrize(("source", "size"), [(224, 288), (288, 224), (160, 224), (224, 160), (224, 224)])
def test_area_resize(source: int, size: int) -> None:
    resized = area_resize(image(1, source, 202, 2), area_matrix(size, source))
    close(resized[:, :, ::9, ::11], load("area_resize")[f"area_{source}_to_{size}"], 1e-6)


def test_targets() -> None:
    case, given = load("targets"), image(2, 224, 203)
    target = PixelTarget(16)(given)
    close(target[:, ::13, ::37], case["target"], 1e-5)
    close(stats(target), case["target_stats"], 1e-5)
    assert torch.equal(patchify(given, 16)[:, ::13, ::37], case["patchify"])
    assert torch.equal(unpatchify(patchify(given, 16), 16), given)
    close(unpatchify(target, 16)[:, :, ::11, ::13], case["target_as_image"], 1e-5)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (11, 50), (63, 63), (63, 0), (5, 31)])
def test_degrade_zoomed_out(left: int, top: int) -> None:
    case, given = load("degrade_zoomed_out"), image(2, 160, 205)
    zoom = ZoomOut()
    shared = zoom(given, torch.tensor([[left, top]])).inputs
    assert torch.equal(shared[:, :, ::9, ::11], case[f"pad_left{left}_top{top}"])
    close(stats(shared), case[f"stats_left{left}_top{top}"], 1e-6)
    assert torch.equal(zoom(given, torch.tensor([[left, top]] * 2)).inputs, shared)  # a place for each image


def test_degrade_distorted() -> None:
    case, given = load("degrade_distorted"), image(1, 224, 206)
    fisheye = Fisheye()
    close(fisheye.grid(case["params"])[:, ::9, ::11], case["grid_xy"], 1e-5)
    distorted = fisheye(given.expand(4, -1, -1, -1), case["params"]).inputs
    close(distorted[:, :, ::9, ::11], case["image"], 2e-4)


def test_degrade_blurred() -> None:
    case, given = load("degrade_blurred"), image(2, 224, 207)[:1]
    blur = RandomBlur()
    weights = tensor("input.blur_weight", (3, 3, 7, 7), 207) * 0.02 + 1 / 49
    assert blur.bias is not None
    blur.bias.copy_(tensor("input.blur_bias", (3,), 207) * 0.05)
    given = image(1, 224, 207)
    blurred = blur(given, weights[None]).inputs
    close(blurred[:, :, ::9, ::11], case["intended"], 1e-5)
    close(stats(blurred), case["intended_stats"], 1e-5)
    # kernels of several images in one convolution
    two = blur(given.repeat(2, 1, 1, 1), torch.stack((weights, weights.flip(0)))).inputs
    close(two[0], blurred[0], 1e-5)
    close(two[1], blur(given, weights.flip(0)[None]).inputs[0], 1e-5)


def test_degrade_desaturated() -> None:
    case, given = load("degrade_desaturated"), image(1, 224, 208)
    gray = torch.cat([RandomGray()(given, weights[None].float()).inputs for weights in case["gray_weights"]])
    close(gray[:, :, ::9, ::11], case["gray"], 1e-6)

    levels = images_u8(61, 47, 208)
    hue, saturation, value = rgb_to_hsv(levels)
    close(hue, case["hsv_h"], 0)
    close(saturation * 0.3, case["hsv_s_scaled"], 1e-5)
    close(value, case["hsv_v"], 0)
    close(desaturated(levels, 0.3), case["desaturated"].permute(2, 0, 1), 2)
    # the same through the degradation of normalised images
    whole = torch.nn.functional.pad(levels, (0, 14), mode="reflect")
    mean, std = (torch.tensor(constant).view(3, 1, 1) for constant in (IMAGENET_MEAN, IMAGENET_STD))
    degraded = Desaturate(61)(((whole / 255 - mean) / std)[None]).inputs[0]
    shown = (degraded[:, :, :47] * std + mean) * 255
    close(shown, case["desaturated"].permute(2, 0, 1), 2.01)


def test_zoomed_in_sees_the_middle() -> None:
    given = image(1, 288, 204)
    assert torch.equal(ZoomIn()(given).inputs, given[:, :, 32:256, 32:256])
