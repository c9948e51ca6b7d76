"""R-CNNs over any pyramid, and their pooling of regions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from vireo.detection import AlignedRoIAlign, rcnn
from vireo.errors import InputError


class Pyramid(nn.Module):
    """Five maps of 8 channels, each the image pooled."""

    out_channels, strides = 8, (4, 8, 16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pooled = [nn.functional.avg_pool2d(images, s, ceil_mode=True) for s in self.strides]
        return {str(i): self.conv(x) for i, x in enumerate(pooled)}


SMALL: dict[str, Any] = {"short_side": 64, "long_side": 96, "rpn_post_nms_top_n_test": 20, "box_score_thresh": 0.0}


@pytest.mark.parametrize("masks", [True, False])
def test_any_pyramid(masks: bool) -> None:
    torch.manual_seed(0)
    model = rcnn(Pyramid(), 3, masks=masks, aligned=masks, **SMALL)
    target = {"boxes": torch.tensor([[4.0, 4, 40, 50]]), "labels": torch.tensor([2])}
    if masks:
        target["masks"] = torch.ones(1, 64, 80, dtype=torch.uint8)
    losses = model([torch.rand(3, 64, 80)], [target])
    assert ("loss_mask" in losses) is masks
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    (found,) = model.eval()([torch.rand(3, 50, 70)])
    assert ("masks" in found) is masks
    assert found["boxes"].max() <= 70


def test_aligned_pooling_reads_what_lies_under_a_box() -> None:
    """Of maps that hold the x coordinate of their pixels' centres, a bin's mean is the x of its centre."""
    strides = (4, 8, 16, 32)
    maps = {
        str(i): ((torch.arange(512 // s) + 0.5) * s).expand(1, 1, 512 // s, 512 // s).contiguous()
        for i, s in enumerate(strides)
    }
    boxes = torch.tensor([[40.0, 60, 68, 88], [40, 60, 152, 172], [40, 60, 264, 284], [32, 32, 480, 480]])
    pooled = AlignedRoIAlign(list(maps), strides, 7)(maps, [boxes], [(512, 512)])[:, 0, 3]
    width = (boxes[:, 2] - boxes[:, 0])[:, None] / 7
    expected = boxes[:, :1] + (torch.arange(7) + 0.5) * width
    assert torch.allclose(pooled, expected, atol=1e-3)
    plain = MultiScaleRoIAlign(list(maps), 7, sampling_ratio=0)(maps, [boxes], [(512, 512)])[:, 0, 3]
    offset = (plain - expected).mean(1)
    assert offset.tolist() == pytest.approx([2, 4, 8, 16], abs=0.1)  # torchvision's half pixel of each level's map


def test_images_without_regions() -> None:
    maps = {"0": torch.ones(2, 1, 8, 8, requires_grad=True), "1": torch.ones(2, 1, 4, 4, requires_grad=True)}
    pooled = AlignedRoIAlign(list(maps), (4, 8), 7)(maps, [torch.zeros(0, 4), torch.zeros(0, 4)], [(32, 32)] * 2)
    assert pooled.shape == (0, 1, 7, 7)
    pooled.sum().backward()
    assert all(x.grad is not None for x in maps.values())


def test_misspelt_options() -> None:
    """torchvision itself would say nothing."""
    with pytest.raises(InputError, match="has no argument box_score_treshold"):
        rcnn(Pyramid(), 3, box_score_treshold=0.1)
