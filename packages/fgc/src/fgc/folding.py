"""Inference form of gated networks: every batch norm folded into the convolution before it (section 11)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import FrozenBatchNorm2d

from vireo.errors import InputError

from .blocks import GatedBlock
from .gate import ChannelGate


def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """A new convolution equal to ``norm(conv(x))`` with the norm's running statistics.

    Args:
        conv: with any stride, padding, dilation and groups.
        norm: ``BatchNorm2d`` with running statistics, ``FrozenBatchNorm2d`` or ``Identity``.

    Raises:
        InputError: another kind of norm.
    """
    folded = copy.deepcopy(conv)
    if isinstance(norm, nn.Identity):
        scale, shift = torch.ones_like(conv.weight[:, 0, 0, 0]), torch.zeros_like(conv.weight[:, 0, 0, 0])
    elif _foldable(norm):
        # in double precision, so that folding itself costs no accuracy
        mean, variance, weight, shift = (
            _double(norm, key) for key in ("running_mean", "running_var", "weight", "bias")
        )
        scale = weight * torch.rsqrt(variance + float(norm.eps))  # type: ignore[arg-type]
        shift = shift - mean * scale
    else:
        raise InputError(
            f"{type(norm).__name__} cannot be folded into the convolution before it",
            "ConditionalExecutor",
            "use a network with BatchNorm2d and running statistics",
        )
    bias = shift if conv.bias is None else shift + scale * conv.bias.double()
    folded.weight = nn.Parameter((conv.weight.double() * scale[:, None, None, None]).to(conv.weight.dtype), False)
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype), False)
    return folded


def _double(norm: nn.Module, key: str) -> Tensor:
    value = getattr(norm, key)
    if value is None:  # a norm without affine parameters
        assert isinstance(norm.running_mean, Tensor)
        value = torch.full_like(norm.running_mean, float(key == "weight"))
    return value.detach().double()


def bias_of(conv: nn.Conv2d) -> Tensor:
    """The bias of a convolution that has one, as all folded ones do."""
    assert conv.bias is not None
    return conv.bias


def plain_convolution(conv: nn.Conv2d) -> bool:
    """Whether a convolution has neither groups nor dilation nor an unusual padding."""
    plain = conv.groups == 1 and conv.dilation == (1, 1)
    return plain and isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"


def _foldable(norm: nn.Module) -> bool:
    exact = type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)  # subclasses may do more, e.g. activate
    return exact and getattr(norm, "running_mean", None) is not None


class FoldedGate(nn.Module):
    """The gate's decision for an image: its perceptron as two matrices on the pooled input.

    Attributes:
        forced: ``(B, C)`` or ``(1, C)`` decisions taken instead of the gate's own, which is computed nevertheless;
            see :func:`fgc.latency.force_on_rate`.
    """

    weight1: Tensor
    weight2: Tensor
    bias1: Tensor
    bias2: Tensor

    def __init__(self, gate: ChannelGate) -> None:
        super().__init__()
        layers = gate.mlp["fc1"], gate.mlp["bn"], gate.mlp["fc2"]
        assert isinstance(layers[0], nn.Conv2d)
        assert isinstance(layers[2], nn.Conv2d)
        for name, conv in {"1": fold_norm(layers[0], layers[1]), "2": layers[2]}.items():
            self.register_buffer("weight" + name, conv.weight.detach().flatten(1).contiguous())
            self.register_buffer("bias" + name, bias_of(conv).detach().clone())
        always = getattr(gate, "constant_on", 0)  # channels that compaction has found to be always on
        self.weight2 = F.pad(self.weight2, (0, 0, 0, always))
        self.bias2 = F.pad(self.bias2, (0, always), value=1.0)
        self.forced: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` to ``(B, C)``; a channel is on where this is positive."""
        hidden = torch.relu_(F.linear(x.mean((2, 3)), self.weight1, self.bias1))
        logits = F.linear(hidden, self.weight2, self.bias2)
        return logits if self.forced is None else self.forced.expand_as(logits)

    def single(self, x: Tensor) -> Tensor:
        """The same for one image, ``(1, C_in, H, W)`` to ``(C,)``, by fewer and cheaper operations."""
        pooled = x[0].sum((1, 2))
        hidden = torch.relu_(torch.addmv(self.bias1, self.weight1, pooled, alpha=1 / (x.shape[2] * x.shape[3])))
        logits = torch.addmv(self.bias2, self.weight2, hidden)
        return logits if self.forced is None else self.forced[0]


class FoldedBlock(nn.Module):
    """A gated block without batch norm; this one computes every channel and multiplies by the gate ("masked")."""

    def __init__(self, block: GatedBlock) -> None:
        super().__init__()
        self.gate: FoldedGate | None = FoldedGate(block.gate)
        self.before = _branch(block, "before")
        self.producer, self.consumer = fold_norm(*block.producer), fold_norm(*block.consumer)
        self.shortcut = _branch(block, "shortcut")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` to ``(B, C_out, H', W')``."""
        inner = torch.relu_(self.producer(self.before(x)))
        if self.gate is not None:
            inner.mul_((self.gate(x) > 0)[:, :, None, None])
        return torch.relu_(self.consumer(inner).add_(self.shortcut(x)))


class DenseBlock(FoldedBlock):
    """A folded block with every gate open and none computed: the base line."""

    def __init__(self, block: GatedBlock) -> None:
        super().__init__(block)
        self.gate = None


def fold_network(model: nn.Module, convert: Callable[[GatedBlock], nn.Module]) -> nn.Module:
    """A copy of ``model`` for inference with folded batch norms and ``convert(block)`` for every gated block.

    Batch norms outside of the blocks are folded where symbolic tracing shows that they directly follow a convolution
    that nothing else reads; a network that cannot be traced keeps them, which is slower but as exact.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    replaced = {name: convert(module) for name, module in model.named_modules() if isinstance(module, GatedBlock)}
    for name, block in replaced.items():
        if not name:
            return block
        model.set_submodule(name, block)
    return _traced(model)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FoldedBlock | GatedBlock) or super().is_leaf_module(m, module_qualified_name)


class _Branch(nn.Module):
    """A method of a block as a module of its own."""

    def __init__(self, block: GatedBlock, method: str) -> None:
        super().__init__()
        self.block, self.method = block, method

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.block, self.method)(x)


def _branch(block: GatedBlock, method: str) -> nn.Module:
    branch = _traced(_Branch(block, method))
    if isinstance(branch, fx.GraphModule) and len(branch.graph.nodes) == 2:  # input and output only
        return nn.Identity()
    return branch


def _traced(module: nn.Module) -> nn.Module:
    """``module`` as a graph in which every batch norm that follows a convolution is folded into it."""
    try:
        traced = fx.GraphModule(module, _Tracer().trace(module))
    except (fx.proxy.TraceError, TypeError, RuntimeError, AttributeError):  # control flow that depends on tensors
        return module
    parts: dict[str, Any] = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not _foldable(parts[str(node.target)]):
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        conv = parts[str(source.target)]
        if type(conv) is not nn.Conv2d:
            continue
        traced.set_submodule(str(source.target), fold_norm(conv, parts[str(node.target)]))
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
