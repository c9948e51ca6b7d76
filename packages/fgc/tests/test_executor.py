"""Executors compute what the gated network computes in evaluation."""

from __future__ import annotations

import pytest
import torch
from fgc_golden import close
from fgc_networks import build, set_gates
from torch import nn

from fgc.executor import ConditionalExecutor
from vireo.errors import InputError

NETWORKS = ["resnet20", "resnet18", "resnet50", "timm", "grouped"]


@pytest.mark.parametrize("mode", ["masked", "gather"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_network_and_leaves_it_alone(name: str, mode: str) -> None:
    model, images = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(images)
    executor = ConditionalExecutor(model, mode)
    close(executor(images), expected)
    close(executor(images[1:]), expected[1:])  # kept memory of the call before does not show
    assert not any(isinstance(module, nn.BatchNorm2d) for module in executor.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(images), expected)


@pytest.mark.parametrize("mode", ["masked", "gather"])
@pytest.mark.parametrize("channels", [None, [], [3]], ids=["all", "none", "one"])
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "bottleneck"])
def test_constant_gates(name: str, channels: list[int] | None, mode: str) -> None:
    model, images = build(name)
    set_gates(model, channels)
    close(ConditionalExecutor(model, mode)(images), model(images))


def test_dense_is_the_network_with_open_gates() -> None:
    model, images = build("resnet20")
    executor = ConditionalExecutor(model, "dense")
    set_gates(model, None)
    close(executor(images), model(images))


def test_gather_of_several_image_sizes() -> None:
    model, _ = build("resnet20")
    executor = ConditionalExecutor(model, "gather")
    for side in (8, 12, 16, 20, 24, 8):
        images = torch.randn(1, 3, side, side)
        close(executor(images), model(images))


def test_training_mode_and_empty_batch() -> None:
    model, images = build("resnet20")
    expected = model(images)
    executor = ConditionalExecutor(model.train(), "gather")
    close(executor(images), expected)
    assert executor(images[:0]).shape == (0, 10)


@pytest.mark.parametrize("mode", ["masked", "gather"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_not_finite_have_no_finite_logits(mode: str, value: float) -> None:
    model, images = build("resnet20")
    expected = ConditionalExecutor(model, mode)(images)
    images[0, 1, 3, 5] = value
    logits = ConditionalExecutor(model, mode)(images)
    assert not logits[0].isfinite().any()
    close(logits[1], expected[1])


def test_network_that_cannot_be_traced_keeps_its_outer_norms() -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) if x.sum() > -1e9 else x

    inner, images = build("resnet20")
    close(ConditionalExecutor(Wrapped(inner), "gather")(images), inner(images))


def test_mistakes() -> None:
    model, images = build("tiny")
    with pytest.raises(InputError, match="mode 'fast' is unknown"):
        ConditionalExecutor(model, "fast")
    with pytest.raises(InputError, match="has no gates"):
        ConditionalExecutor(nn.Sequential(nn.Conv2d(3, 3, 1)))
    executor = ConditionalExecutor(model)
    for wrong in (images[0], images[:, :2], images[:, :, 0]):
        with pytest.raises(InputError, match=r"give \(B, 3, H, W\)"):
            executor(wrong)
    with pytest.raises(InputError, match="float64"):
        executor(images.double())
    with pytest.raises(InputError, match="meta"):
        executor(images.to("meta"))
    model.get_parameter("conv1.weight").data[0] = float("nan")
    with pytest.raises(InputError, match=r"conv1\.weight"):
        ConditionalExecutor(model)


def test_norms_that_cannot_be_folded() -> None:
    model, _ = build("tiny")
    model.layer1[0].bn1 = nn.GroupNorm(1, 8)
    with pytest.raises(InputError, match="GroupNorm cannot be folded"):
        ConditionalExecutor(model)
