"""Static compaction: channels whose gate never changes are removed, or keep computing without a gate (section 11)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .blocks import GatedBlock, gated_blocks
from .folding import DenseBlock, FoldedBlock, bias_of
from .gate import ChannelGate


class BlockCompaction(NamedTuple):
    """How many channels of a gated block were removed, keep computing without a gate, or stay conditional."""

    removed: int
    constant_on: int
    conditional: int


class CompactGate(ChannelGate):
    """A gate for ``conditional`` channels, followed by ``constant_on`` channels that are always on; for inference."""

    def __init__(self, gate: ChannelGate, conditional: Tensor, constant_on: int) -> None:
        nn.Module.__init__(self)
        self.in_channels, self.out_channels = gate.in_channels, len(conditional) + constant_on
        self.temperature, self.constant_on = gate.temperature, constant_on
        self.mlp = copy.deepcopy(gate.mlp)
        _keep_outputs(self.mlp["fc2"], conditional)
        self.logits, self.uniform = None, None

    def gate_logits(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels)``; 1 for what is always on."""
        logits = super().gate_logits(x)
        return torch.cat((logits, logits.new_ones(len(logits), self.constant_on)), 1)


class ConstantBlock(FoldedBlock):
    """What is left of a block whose channels are all off: ``relu(bias + shortcut(x))``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` to ``(B, C_out, H', W')``."""
        return torch.relu(bias_of(self.consumer)[:, None, None] + self.shortcut(x))


def compact_static_gates(
    model: nn.Module, batches: Iterable[Any], check: Iterable[Any] | None = None
) -> tuple[nn.Module, list[BlockCompaction]]:
    """Remove the channels that are off for every calibration image, and the gates of those that are always on.

    The result equals the network in evaluation for every image whose gates agree with the calibration, so for the
    calibration images themselves. A block whose gates are all constant loses its gate and is no gated block any more.
    Blocks with grouped convolutions stay as they are.

    Args:
        model: with gated blocks; stays as it is.
        batches: calibration images: tensors ``(B, C, H, W)`` on the network's device, or sequences that begin with one.
        check: further batches on which the constant gates must hold.

    Returns:
        The new network, for inference, and what became of each gated block in their order.

    Raises:
        InputError: a model without gates, no calibration images, or gates that disagree on ``check``.
    """
    if not gated_blocks(model):
        raise InputError(f"{type(model).__name__} has no gates", "compact_static_gates", "give a gated network")
    model = copy.deepcopy(model).eval()
    ever = _decisions(model, batches)
    if not ever:
        raise InputError("no calibration images", "compact_static_gates", "give at least one batch")
    if check is not None:
        wrong = sum(
            int(((now[0] & ~then[0]) | (now[1] & ~then[1])).sum()) for now, then in zip(_decisions(model, check), ever)
        )
        if wrong:
            what = f"{wrong} gates that never changed in calibration do so on the images of check"
            raise InputError(what, "compact_static_gates", "calibrate on more images")
    report = []
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, GatedBlock)]
    for (name, block), (on, off) in zip(named, ever):
        replacement, compaction = _compact(block, on, off)
        report.append(compaction)
        if replacement is not block:
            if not name:
                return replacement, report
            model.set_submodule(name, replacement)
    return model, report


@torch.no_grad()
def _decisions(model: nn.Module, batches: Iterable[Any]) -> list[tuple[Tensor, Tensor]]:
    """Per block two bool ``(C,)``: which gates were ever on and which were ever off."""
    ever: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        images = batch if isinstance(batch, Tensor) else batch[0]
        if len(images) == 0:
            continue
        model(images)
        found = []
        for block in gated_blocks(model):
            assert block.gate.logits is not None
            on = block.gate.logits > 0
            found.append((on.any(0), (~on).any(0)))
        ever = [(a | b, c | d) for (a, c), (b, d) in zip(ever, found)] if ever else found
    return ever


def _compact(block: GatedBlock, on: Tensor, off: Tensor) -> tuple[nn.Module, BlockCompaction]:
    conditional = (on & off).nonzero()[:, 0]
    constant = (~off).nonzero()[:, 0]
    producer, consumer = block.producer, block.consumer
    if len(constant) == len(on):
        return DenseBlock(block), BlockCompaction(0, len(on), 0)
    if not on.any():
        return ConstantBlock(block), BlockCompaction(len(on), 0, 0)
    if producer.conv.groups != 1 or consumer.conv.groups != 1:
        return block, BlockCompaction(0, 0, len(on))
    kept = torch.cat((conditional, constant))
    compaction = BlockCompaction(len(on) - len(kept), len(constant), len(conditional))
    _keep_outputs(producer.conv, kept)
    _keep_norm(producer.norm, kept)
    consumer.conv.weight = nn.Parameter(consumer.conv.weight.detach()[:, kept])
    consumer.conv.in_channels = len(kept)
    if len(conditional) == 0:
        return DenseBlock(block), compaction
    block.gate = CompactGate(block.gate, conditional, len(constant)).eval()
    return block, compaction


def _keep_outputs(conv: nn.Module, kept: Tensor) -> None:
    assert isinstance(conv, nn.Conv2d)
    for name, value in list(conv.named_parameters(recurse=False)):
        setattr(conv, name, nn.Parameter(value.detach()[kept]))
    conv.out_channels = len(kept)


def _keep_norm(norm: nn.Module, kept: Tensor) -> None:
    for name, value in list(norm.named_parameters(recurse=False)):
        setattr(norm, name, nn.Parameter(value.detach()[kept]))
    for name, buffer in list(norm.named_buffers(recurse=False)):
        if buffer.dim():  # not the count of batches
            setattr(norm, name, buffer[kept])
    if isinstance(norm, nn.BatchNorm2d):
        norm.num_features = len(kept)
