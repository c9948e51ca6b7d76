"""Small gated networks whose batch norms have seen data, for the tests of execution."""

from __future__ import annotations

import timm
import torch
import torchvision
from torch import Tensor, nn

from fgc.attach import attach_gates
from fgc.gate import gates_of
from fgc.resnet import GatedResNet, gated_resnet20


def filled(model: nn.Module) -> nn.Module:
    """``model`` in evaluation, with statistics and weights of its batch norms as after training."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            shape = module.running_mean.shape
            module.running_mean.copy_(0.2 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
            module.weight.data.copy_(0.5 + torch.rand(shape, generator=generator))
            module.bias.data.copy_(0.2 * torch.randn(shape, generator=generator))
    return model.eval().requires_grad_(False)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network and two images for it."""
    torch.manual_seed(0)
    if name == "tiny":
        return filled(GatedResNet(1, width=8, hidden=4)), torch.randn(2, 3, 8, 8)
    if name == "resnet20":
        return filled(gated_resnet20()), torch.randn(2, 3, 32, 32)
    if name == "timm":
        return filled(attach_gates(timm.create_model("resnet18d"))), torch.randn(2, 3, 64, 64)
    if name == "grouped":
        block = torchvision.models.resnet.Bottleneck
        model = torchvision.models.ResNet(block, [1, 1, 1, 1], groups=4, width_per_group=4)
        return filled(attach_gates(model)), torch.randn(2, 3, 32, 32)
    if name == "bottleneck":
        model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], width_per_group=8)
        return filled(attach_gates(model, hidden=4)), torch.randn(2, 3, 16, 16)
    return filled(attach_gates(getattr(torchvision.models, name)())), torch.randn(2, 3, 64, 64)


def set_gates(model: nn.Module, open_channels: list[int] | None) -> None:
    """Fix every gate: None opens all, a list opens these channels only."""
    for gate in gates_of(model):
        weight, bias = gate.mlp.get_parameter("fc2.weight").data, gate.mlp.get_parameter("fc2.bias").data
        weight.zero_()
        bias.fill_(1.0 if open_channels is None else -1.0)
        if open_channels:
            bias[open_channels] = 1.0
