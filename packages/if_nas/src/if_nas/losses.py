"""Losses that sharpen the architecture weights while they are learned (section 3.5)."""

from __future__ import annotations

from torch import Tensor

from .arch import ArchWeights
from .schedule import ActiveNodes


def edge_penalty(arch: ArchWeights, active: ActiveNodes) -> Tensor:
    """R_edge: the sum of ``log(1 + w / mean w)`` over the candidate edges of active nodes with more than one.

    Of a node with m candidates it lies between ``log(1 + m)``, one edge alone, and ``m log 2``, all alike.

    Returns:
        A scalar.
    """
    rows = arch.active_rows(active) & (arch.counts > 1)
    weights = arch.edge_weights()
    mean = (weights * arch.valid).sum(1, keepdim=True) / arch.counts[:, None]
    return ((weights / mean).log1p() * (arch.valid & rows[:, None])).sum()


def op_penalty(arch: ArchWeights, active: ActiveNodes) -> Tensor:
    """R_op: the sum of ``log(1 + a / mean a)`` over the operators of all candidate edges of active nodes.

    Returns:
        A scalar.
    """
    weights = arch.op_weights()
    used = arch.valid & arch.active_rows(active)[:, None]
    return ((weights / weights.mean(2, keepdim=True)).log1p() * used[:, :, None]).sum()


def discretization_loss(arch: ArchWeights, active: ActiveNodes, edge_weight: float, op_weight: float) -> Tensor:
    """``edge_weight * R_edge + op_weight * R_op``, a scalar, all stages at once."""
    return edge_weight * edge_penalty(arch, active) + op_weight * op_penalty(arch, active)
