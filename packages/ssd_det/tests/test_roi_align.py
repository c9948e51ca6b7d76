"""The sparse RoIAlign of the CPU against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision import ops

from ssd_det.roi_align import roi_align


@pytest.mark.parametrize(("size", "scale"), [(7, 0.25), (5, 0.125), (1, 1.0)])
def test_equals_torchvision_forward_and_backward(size: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(size)
    features = torch.randn(2, 6, 20, 31, generator=generator)
    centre = torch.rand(300, 2, generator=generator) * torch.tensor([31.0, 20.0]) / scale
    # slivers, boxes larger than the map and boxes beyond its border
    side = torch.exp(torch.rand(300, 2, generator=generator) * 6 - 2) / scale
    image = torch.randint(0, 2, (300, 1), generator=generator)
    rois = torch.cat([image.float(), centre - side / 2, centre + side / 2], 1)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    a = roi_align(ours, rois, size, scale)
    b = ops.roi_align(theirs, rois, size, scale, sampling_ratio=0, aligned=True)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    weight = torch.randn(a.shape, generator=generator)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_half_precision_maps_do_not_round_the_boxes() -> None:
    features = torch.randn(1, 4, 200, 300).bfloat16()
    rois = torch.tensor([[0.0, 1001.3, 601.7, 1043.9, 652.2]])
    torch.testing.assert_close(roi_align(features, rois, 7, 0.25), roi_align(features.float(), rois, 7, 0.25))


def test_no_boxes() -> None:
    features = torch.randn(1, 4, 8, 8, requires_grad=True)
    pooled = roi_align(features, torch.zeros(0, 5), 7, 0.25)
    assert pooled.shape == (0, 4, 7, 7)
    pooled.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()
