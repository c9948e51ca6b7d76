"""Mean losses of a set: every image counts alike, whatever its batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vireo.evaluation import mean_losses


def loader_of(*sizes: int) -> Any:
    batches = [(torch.full((size, 1), float(size)), {"key": torch.arange(size)}) for size in sizes]
    return SimpleNamespace(batches=lambda epoch: iter(batches))


def test_images_count_alike() -> None:
    network = nn.Dropout(0.5).train()

    def losses_of(number: int, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        assert len(targets["key"]) == len(images)
        assert torch.equal(network(images), images)  # in evaluation mode
        return {"loss": images.mean(), "number": torch.tensor(float(number))}

    found = mean_losses(network, loader_of(3, 3, 2), losses_of)
    assert found == {"loss": (9 + 9 + 4) / 8, "number": (0 + 3 + 4) / 8}
    assert not network.training
