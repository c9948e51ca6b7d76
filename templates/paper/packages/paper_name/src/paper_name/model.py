"""The method: networks and losses, without configuration, logging or files."""

from __future__ import annotations

from torch import Tensor, nn


class SmallNet(nn.Module):
    """Three strided convolutions and a linear layer.

    Args:
        num_classes: C.
        width: channels of the first convolution, doubled by each of the others.
    """

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)`` of normalised images ``(B, 3, H, W)``."""
        return self.head(self.features(images).mean((2, 3)))
