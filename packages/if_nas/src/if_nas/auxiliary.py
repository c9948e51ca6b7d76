"""The auxiliary classifier after stage 2, for training only (section 3.8)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from vireo.errors import InputError

Variant = Literal["imagenet", "cifar"]


class AuxiliaryHead(nn.Module):
    """Pools a map to 2x2, turns it into 768 features, and classifies them.

    Args:
        channels: of the map.
        num_classes: K.
        variant: ``"imagenet"`` takes maps of 14x14, ``"cifar"`` of 16x16.
    """

    def __init__(self, channels: int, num_classes: int, variant: Variant = "imagenet") -> None:
        super().__init__()
        cifar = variant == "cifar"
        self.side = 16 if cifar else 14
        self.features = nn.Sequential(
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(5, 3 if cifar else 2, count_include_pad=False),
            nn.Conv2d(2 * channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 768, 2, bias=False),
            *([nn.BatchNorm2d(768)] if cifar else []),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, 14, 14) or, for CIFAR, (B, channels, 16, 16), to logits (B, K).

        Raises:
            InputError: a map of another size.
        """
        self.require_map(*features.shape[-2:])
        logits: Tensor = self.classifier(self.features(features).flatten(1))
        return logits

    def require_map(self, height: int, width: int) -> None:
        """Check the size of the map after stage 2.

        Raises:
            InputError: it does not fit.
        """
        if (height, width) != (self.side, self.side):
            what = f"the map after stage 2 is {height}x{width}, the head needs {self.side}x{self.side}"
            pixels = "32x32" if self.side == 16 else "224x224"
            raise InputError(what, "auxiliary head", f"train on images of {pixels} pixels, or without auxiliary head")
