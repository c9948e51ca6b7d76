"""Narrow networks and a batch for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from p2p_loc.p2p_head import P2PNet
from p2p_loc.reppoints import RepPoints

NARROW: dict[str, Any] = {
    "backbone": "resnet18",
    "norm": "gn",
    "frozen_stages": 0,
    "backbone_options": {"channels": [32, 32, 64, 64]},
    "channels": 32,
}
KINDS: dict[str, Any] = {
    "adap": lambda classes=2, **options: RepPoints(classes, **{**NARROW, **options}),
    "standard": lambda classes=2, **options: RepPoints(
        classes, **{**NARROW, "strides": (8, 16, 32, 64, 128), "base_scale": 4.0, **options}
    ),
    "p2p": lambda classes=2, **options: P2PNet(classes, **{**NARROW, **options}),
}


def narrow(kind: str, **options: Any) -> Any:
    """A network that is always the same."""
    torch.manual_seed(0)
    return KINDS[kind](**options)


def batch() -> tuple[Tensor, list[dict[str, Any]]]:
    """Two images of noise: one of 96x128 with three objects, one of 90x70 without any, in padding."""
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    images[1, :, 90:] = 0
    images[1, :, :, 70:] = 0
    boxes = torch.tensor([[10.0, 12, 26, 28], [40, 30, 56, 46], [41, 31, 57, 47]])
    return images, [
        {"boxes": boxes, "labels": torch.tensor([0, 1, 0]), "size": (96, 128)},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "size": (90, 70)},
    ]


def on_device(targets: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """The targets with their tensors on a device."""
    return [{k: v.to(device) if isinstance(v, Tensor) else v for k, v in target.items()} for target in targets]
