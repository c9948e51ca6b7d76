"""The losses that train gates beside the cross-entropy (section 3.3), put together for a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vireo.errors import InputError

from .blocks import GatedBlock, gated_blocks
from .coupling import FeatureGateCoupling, couple
from .macs import MacReport
from .schedules import LossWeights
from .shaping import batch_shaping_loss, expected_gate_rate


class RhoController(nn.Module):
    """Chooses the L0 weight so that pruning settles at a target, in place of a rho tuned by hand.

    A proportional-integral controller on the logarithm of rho, moved once per step by the pruning ratio that the step's
    own hard gates have. What it follows rises in a straight line from the first ratio it sees to the target, because
    gates that a strong rho has closed hardly open again. Its state are buffers, so a resumed run goes on exactly.

    Args:
        target: pruning ratio to hold, in (0, 1).
        rho: first weight.
        gain: what the logarithm integrates of the error per step.
        damping: what it adds of the error itself.
        ramp_steps: until the target is due; it should lie before the learning rate falls.

    Raises:
        InputError: a target that is no ratio, or a rho that is not positive.
    """

    log_rho: Tensor
    error: Tensor
    start: Tensor
    steps: Tensor
    _LOG_RANGE = (math.log(1e-3), math.log(1e2))

    def __init__(
        self, target: float, rho: float, gain: float = 0.1, damping: float = 20.0, ramp_steps: int = 0
    ) -> None:
        super().__init__()
        if not 0 < target < 1:
            raise InputError(f"{target} is no pruning ratio", "target_pruning", "give a number between 0 and 1")
        if rho <= 0:
            raise InputError(f"rho {rho} is not positive", "recipe.rho", "give the controller a rho to start from")
        self.target, self.gain, self.damping, self.ramp_steps = target, gain, damping, ramp_steps
        self.register_buffer("log_rho", torch.tensor(math.log(rho)))
        self.register_buffer("error", torch.tensor(0.0))
        self.register_buffer("start", torch.tensor(0.0))
        self.register_buffer("steps", torch.tensor(0.0))

    @property
    def rho(self) -> Tensor:
        """The weight for this step, a scalar on the device."""
        return (self.log_rho + self.damping * self.error).clamp(*self._LOG_RANGE).exp()

    @torch.no_grad()
    def observe(self, pruning: Tensor) -> None:
        """Take note of a step's pruning ratio."""
        self.start.copy_(torch.where(self.steps == 0, pruning, self.start))
        self.steps.add_(1)
        done = (self.steps / self.ramp_steps).clamp(max=1.0) if self.ramp_steps else 1.0
        self.error.copy_(self.start + (self.target - self.start) * done - pruning)
        self.log_rho.add_(self.gain * self.error).clamp_(*self._LOG_RANGE)


class GateObjective(nn.Module):
    """L0, batch shaping and coupling of a network's last forward pass, and the pruning it had.

    Holds what only training needs: the memory banks and the controller. :func:`attach_objective` makes it a part of
    the network, so that checkpoints have it.

    Args:
        macs: of the network, see :func:`~fgc.macs.count_macs`.
        widths: gated channels of each block.
        coupled: numbers of the blocks that are coupled.
        num_samples: images of the training set.
        coupling: further arguments of :class:`~fgc.coupling.FeatureGateCoupling`.
        controller: chooses rho.

    Raises:
        InputError: a coupled block that there is not, or named twice.
    """

    channel_share: Tensor

    def __init__(
        self,
        macs: MacReport,
        widths: Sequence[int],
        coupled: Sequence[int] = (),
        num_samples: int = 0,
        coupling: Mapping[str, Any] | None = None,
        controller: RhoController | None = None,
    ) -> None:
        super().__init__()
        require_blocks(coupled, len(widths), "coupling.blocks")
        self.couplings = nn.ModuleDict(
            {str(block): FeatureGateCoupling(num_samples, widths[block], **(coupling or {})) for block in coupled}
        )
        self.controller = controller
        self._always = (macs.fixed + macs.gates) / macs.dense
        shares = [torch.full((width,), block / width / macs.dense) for width, block in zip(widths, macs.blocks)]
        self.register_buffer("channel_share", torch.cat(shares), persistent=False)

    def losses(
        self, blocks: Sequence[GatedBlock], weights: LossWeights, indices: Tensor, share: float | Tensor = 1.0
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted losses of the last forward pass in training mode, and what to log beside them.

        Args:
            blocks: the network's gated blocks, in order.
            weights: of this epoch; losses whose weight is 0 are left out, and banks are then not updated.
            indices: ``(B,)``, positions of the images in the training set.
            share: this process's part of the global batch, see :func:`~fgc.collectives.batch_share`.

        Returns:
            Scalars ``loss_l0``, ``loss_bs`` and ``loss_fgc``; scalars ``pruning`` (of the hard gates without noise) and
            ``rho``.
        """
        per_block = [block.gate.logits for block in blocks]
        logits = [z for z in per_block if z is not None]
        joined = torch.cat(logits, 1)
        pruning = self._pruning(joined.detach(), share)
        losses, monitors = {}, {"pruning": pruning}
        if weights.rho:
            rho: float | Tensor = weights.rho
            if self.controller is not None:
                self.controller.observe(pruning)
                rho = self.controller.rho
            losses["loss_l0"] = rho * expected_gate_rate(logits) * share
            monitors["rho"] = torch.as_tensor(rho)
        if weights.zeta:
            losses["loss_bs"] = weights.zeta * batch_shaping_loss(joined)
        if weights.kappa and weights.coupling_epoch and self.couplings:
            chosen = [int(block) for block in self.couplings]
            features = [f for f in (blocks[block].feature for block in chosen) if f is not None]
            couplings = [module for module in self.couplings.values() if isinstance(module, FeatureGateCoupling)]
            coupled = couple(couplings, features, [logits[b] for b in chosen], indices, weights.coupling_epoch)
            losses["loss_fgc"] = weights.kappa * coupled
        return losses, monitors

    def _pruning(self, logits: Tensor, share: float | Tensor) -> Tensor:
        """The mean over the global batch: no loss, so that it is averaged over processes here."""
        on = ((logits > 0).float() @ self.channel_share).mean() * share
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(on)
            on = on / dist.get_world_size()
        return 1 - self._always - on


def attach_objective(network: nn.Module, objective: GateObjective) -> GateObjective:
    """Make ``objective`` a part of ``network``: its banks go into checkpoints, not into the final weights.

    Banks are kept equal by every process itself; DistributedDataParallel is told not to send them around each step.
    """
    network.add_module("objective", objective)
    network.training_only = ("objective.",)  # type: ignore[assignment]
    names = [f"objective.{name}" for name, _ in objective.named_buffers()]
    network._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]
    return objective


def require_blocks(chosen: Sequence[int], count: int, where: str) -> None:
    """Check that ``chosen`` are different ones of ``count`` gated blocks.

    Raises:
        InputError: for the setting ``where``.
    """
    if any(not 0 <= block < count for block in chosen) or len(set(chosen)) < len(chosen):
        what = f"{list(chosen)} does not name different blocks of 0 to {count - 1}"
        raise InputError(what, where, "number the gated blocks in network order, from 0")


def default_coupled_blocks(network: nn.Module) -> list[int]:
    """The last two gated blocks, as the authors' ResNet-20 has it (section 3.3)."""
    count = len(gated_blocks(network))
    return list(range(max(0, count - 2), count))
