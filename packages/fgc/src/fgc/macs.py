"""Multiply-adds of a gated network: the paper's count and an exact one (section 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .blocks import gated_blocks


@dataclass(frozen=True)
class MacReport:
    """Multiply-adds of one image. Batch norm, pooling, activations and parameter-free shortcuts count nothing.

    Attributes:
        fixed: convolutions that always run: stem, projection shortcuts, what stands before a gated pair.
        blocks: per gated block, its two gated convolutions with all channels on.
        gate_blocks: per gated block, its gate.
        classifier: linear layers outside the gates.
        on_rates: per gated block, the share of channels that are on, in [0, 1].
    """

    fixed: int
    blocks: tuple[int, ...]
    gate_blocks: tuple[int, ...]
    classifier: int
    on_rates: tuple[float, ...]

    @property
    def dense(self) -> int:
        """All convolutions without gates: the denominator of :attr:`pruning`."""
        return self.fixed + sum(self.blocks)

    @property
    def gates(self) -> int:
        """The gates themselves."""
        return sum(self.gate_blocks)

    @property
    def gated(self) -> float:
        """Convolutions at the on-rates, without the gates."""
        return self.fixed + sum(rate * macs for rate, macs in zip(self.on_rates, self.blocks))

    @property
    def pruning(self) -> float:
        """The paper's computation reduction: ``1 - (gated + gates) / dense``, whole multiply-adds, no classifier."""
        return 1 - (int(self.gated) + self.gates) / self.dense

    @property
    def exact_pruning(self) -> float:
        """The same with the classifier on both sides and nothing rounded."""
        return 1 - (self.gated + self.gates + self.classifier) / (self.dense + self.classifier)

    @property
    def ideal_speedup(self) -> float:
        """``1 / (1 - pruning)``: what kernels would reach that are as efficient on fewer channels."""
        return 1 / (1 - self.pruning)

    def at(self, on_rates: Sequence[float]) -> MacReport:
        """The same network at other on-rates.

        Raises:
            InputError: not one rate in [0, 1] for each gated block.
        """
        rates = tuple(float(rate) for rate in on_rates)
        if len(rates) != len(self.blocks) or not all(0 <= rate <= 1 for rate in rates):
            what = f"{list(rates)} is not one share in [0, 1] for each of the {len(self.blocks)} gated blocks"
            raise InputError(what, "on_rates", "give as many rates as gated_blocks(model) has blocks")
        return MacReport(self.fixed, self.blocks, self.gate_blocks, self.classifier, rates)


@torch.no_grad()
def count_macs(model: nn.Module, input_size: tuple[int, int], on_rates: Sequence[float] | None = None) -> MacReport:
    """Count the multiply-adds of every convolution and linear layer in one pass over a black image.

    Args:
        model: with gated blocks; in any mode, which it keeps.
        input_size: height and width of an image in pixels.
        on_rates: per gated block; default: all channels on.

    Raises:
        InputError: rates that do not fit the blocks.
    """
    counted: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counted[module] = module.weight[0].numel() * output[0].numel()
        elif isinstance(module, nn.Linear):
            counted[module] = module.weight.numel() * output[0].numel() // module.out_features

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()(torch.zeros(1, 3, *input_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    blocks = gated_blocks(model)
    pairs = [(block.producer.conv, block.consumer.conv) for block in blocks]
    of_gates = [{module for module in block.gate.modules() if module in counted} for block in blocks]
    apart = {conv for pair in pairs for conv in pair}.union(*of_gates)
    rest = [(module, macs) for module, macs in counted.items() if module not in apart]
    full = MacReport(
        fixed=sum(macs for module, macs in rest if isinstance(module, nn.Conv2d)),
        blocks=tuple(counted[first] + counted[second] for first, second in pairs),
        gate_blocks=tuple(sum(counted[module] for module in gate) for gate in of_gates),
        classifier=sum(macs for module, macs in rest if isinstance(module, nn.Linear)),
        on_rates=(1.0,) * len(blocks),
    )
    return full if on_rates is None else full.at(on_rates)
