"""Accuracy of networks and of functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from if_nas.evaluation import evaluate


def batches(classes: int, sizes: tuple[int, ...] = (4, 1)) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(n, classes, generator=generator), {"label": torch.randint(classes, (n,), generator=generator)})
        for n in sizes
    ]


@pytest.mark.parametrize(("classes", "names"), [(5, ["top1"]), (6, ["top1", "top5"])])
def test_top5_needs_more_than_five_classes(classes: int, names: list[str]) -> None:
    assert list(evaluate(nn.Identity(), batches(classes))) == names


def test_a_network_is_evaluated_in_evaluation_mode_without_gradients() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.Linear(7, 7))
    found = evaluate(network, batches(7))
    assert not network.training
    assert evaluate(network.eval(), batches(7)) == found
    seen: list[bool] = []

    def classify(images: torch.Tensor) -> torch.Tensor:
        seen.append(network(images).requires_grad)
        return network(images)

    assert evaluate(classify, batches(7)) == found
    assert seen == [False, False]


def test_right_and_wrong() -> None:
    data = batches(8, (50,))
    labels = data[0][1]["label"]
    right = torch.nn.functional.one_hot(labels, 8).float()
    assert evaluate(lambda _: right, data) == {"top1": 100, "top5": 100}
    assert evaluate(lambda _: -right, data) == {"top1": 0, "top5": 0}
