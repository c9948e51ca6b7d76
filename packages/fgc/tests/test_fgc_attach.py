"""Gates: their noise, their samples, and their place in the ResNets of torchvision and timm."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

from fgc.attach import attach_gates
from fgc.blocks import gated_blocks
from fgc.gate import ChannelGate, binary_concrete_ste, gate_noise, gates_of, uniform_noise
from fgc.resnet import GatedResNet
from vireo.data.random import counter_uniform
from vireo.errors import InputError

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=7), 8),
    "torchvision resnet50": (lambda: torchvision.models.resnet50(num_classes=7), 16),
    "torchvision resnext50": (lambda: torchvision.models.resnext50_32x4d(num_classes=7), 16),
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=7), 8),
    "timm resnet34": (lambda: timm.create_model("resnet34", num_classes=7), 16),
    "timm resnet26d": (lambda: timm.create_model("resnet26d", num_classes=7), 8),
    "inside another": (lambda: nn.Sequential(torchvision.models.resnet18(num_classes=7), nn.Softmax(1)), 8),
}


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms that do something: random gains and running statistics."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(len(module.weight), generator=generator))
                module.bias.copy_(0.2 * torch.randn(len(module.bias), generator=generator))
            module.running_mean.copy_(0.1 * torch.randn(len(module.bias), generator=generator))  # type: ignore[union-attr]
    return network


def force(network: nn.Module, bias: float) -> None:
    """All gates open (a large bias) or shut (a small one)."""
    for gate in gates_of(network):
        last = dict(gate.mlp["fc2"].named_parameters())
        nn.init.zeros_(last["weight"])
        nn.init.constant_(last["bias"], bias)


@pytest.mark.parametrize("name", NETWORKS)
def test_open_gates_give_the_plain_network(name: str) -> None:
    torch.manual_seed(0)
    build, blocks = NETWORKS[name]
    plain = with_statistics(build()).eval()
    gated = attach_gates(copy.deepcopy(plain))
    images = torch.randn(2, 3, 48, 48)
    force(gated, 50.0)
    with torch.no_grad():
        expected, actual = plain(images), gated(images)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        force(gated, -50.0)
        assert not torch.allclose(gated(images), expected, rtol=1e-2, atol=1e-3)
    assert len(gated_blocks(gated)) == len(gates_of(gated)) == blocks
    assert not any(module.training for module in gated.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_keys_of_the_plain_network_stay(name: str) -> None:
    plain = NETWORKS[name][0]()
    gated = attach_gates(copy.deepcopy(plain))
    own, before = gated.state_dict(), plain.state_dict()
    assert {key for key in own if ".gate." not in key} == set(before)
    assert all(torch.equal(own[key], before[key]) for key in before)
    report = gated.load_state_dict(NETWORKS[name][0]().state_dict(), strict=False)
    assert not report.unexpected_keys
    assert all(".gate.mlp." in key for key in report.missing_keys)


def test_shut_gates_leave_batch_norm_and_shortcut() -> None:
    network = attach_gates(with_statistics(torchvision.models.resnet18())).eval()
    force(network, -50.0)
    block = gated_blocks(network)[0]
    x = torch.randn(2, 64, 6, 6)
    with torch.no_grad():
        expected = torch.relu(block.bn2(torch.zeros(2, 64, 6, 6)) + x)  # type: ignore[operator]
        torch.testing.assert_close(block(x), expected)


def test_gates_of_a_bottleneck_stand_behind_its_3x3() -> None:
    network = attach_gates(torchvision.models.resnet50())
    block = gated_blocks(network)[3]  # the first of the second stage
    assert (block.gate.in_channels, block.gate.out_channels) == (256, 128)
    assert block.producer.conv.kernel_size == (3, 3)
    assert block.consumer.conv.kernel_size == (1, 1)


def test_gates_follow_their_block_in_mode() -> None:
    network = torchvision.models.resnet18().train()
    network.layer4.eval()
    attach_gates(network)
    assert [gate.training for gate in gates_of(network)] == [True] * 6 + [False] * 2


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), "Sequential: holds no BasicBlock or Bottleneck"),
        (lambda: GatedResNet(1), "GatedResNet: holds no BasicBlock"),
        (lambda: timm.create_model("seresnet50"), "has se, which the gated block does not"),
        (lambda: timm.create_model("resnet18", act_layer=nn.SiLU), "has act1, act2, which"),
        (lambda: timm.create_model("resnet18", drop_path_rate=0.1), "drop_path"),
        (lambda: timm.create_model("resnetblur18"), "has aa"),
    ],
)
def test_networks_that_are_refused(build: Callable[[], nn.Module], words: str) -> None:
    network = build()
    before = list(network.state_dict())
    with pytest.raises(InputError, match=words):
        attach_gates(network)
    assert list(network.state_dict()) == before


def test_gates_are_not_attached_twice() -> None:
    network = attach_gates(torchvision.models.resnet18())
    with pytest.raises(InputError, match="holds no BasicBlock or Bottleneck"):
        attach_gates(network)


@pytest.mark.parametrize(
    "build", [lambda: GatedResNet(1, width=4), lambda: attach_gates(timm.create_model("resnet18"))]
)
def test_copies_after_a_forward_pass(build: Callable[[], nn.Module]) -> None:
    """What the pass left behind holds a graph, which cannot be copied."""
    network = build().train()
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    other = copy.deepcopy(network).eval()
    assert all(gate.logits is None and gate.probs is None and gate.uniform is None for gate in gates_of(other))
    assert all(block.feature is None for block in gated_blocks(other))
    assert gates_of(network)[0].logits is not None
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(other(images), network.eval()(images))


# ---- noise ----


def network_and_images() -> tuple[GatedResNet, torch.Tensor]:
    torch.manual_seed(0)
    return GatedResNet(1, width=4), torch.randn(6, 3, 8, 8)


def test_noise_is_of_training_alone() -> None:
    network, images = network_and_images()
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(images), network(images))
        with gate_noise(network, torch.arange(6)):
            noisy = network(images)
        assert torch.equal(noisy, network(images))
        network.train()
        assert not torch.equal(network(images), network(images))
        with gate_noise(network, torch.arange(6)):
            once = network(images)
        with gate_noise(network, torch.arange(6)):
            again = network(images)
        with gate_noise(network, torch.arange(6) + 100):
            other = network(images)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert all(gate.uniform is None for gate in gates_of(network))


def test_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    network, _ = network_and_images()
    keys = torch.tensor([11, 5, 99, 7, 0, 3])
    order = torch.tensor([4, 1, 3])
    with gate_noise(network, keys):
        whole = [gate.uniform for gate in gates_of(network)]
    with gate_noise(network, keys[order]):
        part = [gate.uniform for gate in gates_of(network)]
    assert [tuple(u.shape) for u in whole if u is not None] == [(6, 4), (6, 8), (6, 16)]
    for a, b in zip(whole, part):
        assert a is not None
        assert b is not None
        assert torch.equal(a[order], b)
    together = torch.cat([u for u in whole if u is not None], 1)
    assert torch.equal(together, counter_uniform(keys, "gates", 28))
    assert len(together.unique()) == together.numel()


def test_noise_is_gone_after_an_error() -> None:
    network, images = network_and_images()
    with pytest.raises(RuntimeError), uniform_noise(network, torch.rand(6, 28)):
        network(images[:, :2])
    assert all(gate.uniform is None for gate in gates_of(network))


# ---- samples ----


@pytest.mark.parametrize("temperature", [2 / 3, 0.1, 3.0])
def test_samples_are_open_with_their_probability(temperature: float) -> None:
    """Whatever the temperature: it is the gradient's alone. 40,000 draws: five standard errors are 0.0125 at most."""
    logits = torch.tensor([-3.0, -1.0, 0.0, 0.4, 2.0]).expand(40_000, 5)
    noise = torch.rand(40_000, 5, generator=torch.Generator().manual_seed(0))
    samples = binary_concrete_ste(logits, temperature, noise)
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(samples.mean(0), torch.sigmoid(logits[0]), rtol=0, atol=0.0125)


def test_noise_of_zero_shuts_the_gate() -> None:
    """``logit(0)`` is minus infinity; ordinary logits then give gate 0 and a finite gradient that is all but 0."""
    logits = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    sampled = binary_concrete_ste(logits, noise=torch.zeros(3))
    sampled.sum().backward()
    assert sampled.tolist() == [0, 0, 0]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() < 1e-6


def test_logits_that_are_not_finite() -> None:
    logits = torch.tensor([float("nan"), float("inf"), float("-inf")], requires_grad=True)
    sampled = binary_concrete_ste(logits, noise=torch.full((3,), 0.5))
    assert sampled.tolist()[1:] == [1, 0]
    sampled.sum().backward()
    assert logits.grad is not None
    assert sampled[0].isnan()
    assert logits.grad[0].isnan()
    assert logits.grad[1:].tolist() == [0, 0]


def test_explicit_noise_goes_before_the_gates_own() -> None:
    gate = ChannelGate(3, 4).train()
    x = torch.randn(5, 3, 2, 2)
    gate.uniform = torch.full((5, 4), 1 - 2**-24)
    assert gate(x, torch.zeros(5, 4)).sum() == 0
    assert gate(x).sum() == 20
    assert gate(x).shape == (5, 4, 1, 1)


def test_a_gate_in_evaluation_is_a_strict_threshold() -> None:
    gate = ChannelGate(3, 4).eval()
    last = dict(gate.mlp["fc2"].named_parameters())
    nn.init.zeros_(last["weight"])
    last["bias"].data = torch.tensor([-1e-6, 0.0, 1e-6, 2.0])
    assert gate(torch.randn(1, 3, 2, 2)).flatten().tolist() == [0, 0, 1, 1]
    assert gate.probs is not None
    torch.testing.assert_close(gate.probs[0, 3], torch.sigmoid(torch.tensor(2.0)))


def test_one_image_in_training_is_refused_by_batch_norm() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ChannelGate(3, 4).train()(torch.randn(1, 3, 2, 2))
