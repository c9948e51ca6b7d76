"""Heads, losses and sliding windows of segmentation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError
from vireo.report import class_colour, draw_segmentation
from vireo.segmentation import FCNHead, SegmentationModel, UPerHead, segmentation_loss, sliding_window_logits
from vireo.segmentation.sliding import window_places

CHANNELS = (8, 12, 16, 16)


class Backbone(nn.Module):
    """Maps at strides 4 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, c, 1) for c in CHANNELS)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(i): conv(F.avg_pool2d(images, 4 << i)) for i, conv in enumerate(self.convs)}


def upernet() -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(Backbone(), UPerHead(CHANNELS, 5, 16), FCNHead(CHANNELS[2], 5, 8))


def test_every_parameter_learns_and_scores_have_the_images_size() -> None:
    model = upernet()
    images, labels = torch.rand(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96), dtype=torch.uint8)
    losses = model(images, labels)
    assert set(losses) == {"loss_decode", "loss_auxiliary"}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert model.eval()(images).shape == (2, 5, 64, 96)


def test_parameters_are_named_as_in_mmsegmentation() -> None:
    names = set(upernet().state_dict())
    expected = {
        "decode_head.psp_modules.3.1.conv.weight": (16, 16, 1, 1),
        "decode_head.bottleneck.bn.running_mean": (16,),
        "decode_head.lateral_convs.2.conv.weight": (16, 16, 1, 1),
        "decode_head.fpn_convs.0.conv.weight": (16, 16, 3, 3),
        "decode_head.fpn_bottleneck.conv.weight": (16, 64, 3, 3),
        "decode_head.conv_seg.bias": (5,),
        "auxiliary_head.convs.0.conv.weight": (8, 16, 3, 3),
        "auxiliary_head.conv_seg.weight": (5, 8, 1, 1),
    }
    state = upernet().state_dict()
    assert {name: tuple(state[name].shape) for name in expected} == expected
    assert not any(name.endswith("conv.bias") for name in names)


def test_loss_is_the_mean_over_all_pixels() -> None:
    scores = torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[0, :4] = 255
    resized = F.interpolate(scores, size=(8, 8), mode="bilinear", align_corners=False)
    each = F.cross_entropy(resized, labels.clamp(max=2), reduction="none")
    assert segmentation_loss(scores, labels) == pytest.approx(float(each[labels != 255].sum() / 128), rel=1e-5)
    labels[:] = 255
    assert segmentation_loss(scores, labels) == 0


def test_auxiliary_loss_counts_four_tenths() -> None:
    model: Any = upernet().eval()
    images, labels = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long)
    scores = model.auxiliary_head(model.maps(images))
    expected = 0.4 * segmentation_loss(scores, labels).item()
    assert model(images, labels)["loss_auxiliary"].item() == pytest.approx(expected)


def test_too_few_maps() -> None:
    with pytest.raises(InputError, match="at least two"):
        UPerHead([8], 3)


@pytest.mark.parametrize(
    ("length", "window", "stride", "places"),
    [(512, 512, 341, [0]), (600, 512, 341, [0, 88]), (1024, 512, 341, [0, 341, 512]), (10, 4, 3, [0, 3, 6])],
)
def test_last_window_is_shifted_inside(length: int, window: int, stride: int, places: list[int]) -> None:
    assert window_places(length, window, stride) == places


@pytest.mark.parametrize("size", [(20, 33), (16, 16), (9, 40)])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_windows_are_averaged(size: tuple[int, int], batch_size: int) -> None:
    """A network that sees where in its window a pixel lies, against a loop over pixels' windows."""
    window, stride = (16, 16), (10, 7)
    ramp = torch.arange(16.0)[:, None] * torch.ones(16)

    def model(windows: Tensor) -> Tensor:
        assert windows.shape[-2:] == window
        return torch.stack([windows.sum(1) + ramp, windows[:, 0] * ramp.T], 1)

    images = torch.rand(2, 3, *size)
    padded = F.pad(images, (0, max(0, 16 - size[1]), 0, max(0, 16 - size[0])))
    total, count = torch.zeros(2, 2, *padded.shape[-2:]), torch.zeros(padded.shape[-2:])
    for y in window_places(padded.shape[-2], 16, stride[0]):
        for x in window_places(padded.shape[-1], 16, stride[1]):
            total[..., y : y + 16, x : x + 16] += model(padded[..., y : y + 16, x : x + 16])
            count[y : y + 16, x : x + 16] += 1
    expected = (total / count)[..., : size[0], : size[1]]
    assert torch.allclose(sliding_window_logits(model, images, window, stride, batch_size), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [(0, 4), (17, 4)])
def test_strides_that_leave_gaps(stride: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="stride"):
        sliding_window_logits(lambda x: x, torch.rand(1, 3, 32, 32), (16, 16), stride)


def test_drawing_tints_pixels_by_class() -> None:
    image = torch.full((3, 2, 4), 100, dtype=torch.uint8)
    labels = torch.tensor([[0, 1, 255, 0], [7, 1, 0, 0]])
    picture = draw_segmentation(image, labels, palette=[(0, 0, 0), (200, 0, 0)], opacity=0.5, min_side=8)
    assert picture.shape == (4, 8, 3)
    assert picture[0, 0].tolist() == picture[1, 1].tolist() == picture[3, 5].tolist() == [50, 50, 50]
    assert picture[0, 2].tolist() == [150, 50, 50]
    assert picture[1, 4].tolist() == [100, 100, 100]
    assert picture[2, 0].tolist() == [round(50 + c / 2) for c in class_colour(7)]
    with pytest.raises(ValueError, match=r"labels \(2, 2\)"):
        draw_segmentation(image, labels[:, :2])
