"""The architecture parameters of a super-network: one weight per edge and one per operator on it (section 3.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .plan import as_active, remembered, require_nodes
from .schedule import ActiveNodes
from .space import LChainSpace


class ArchWeights(nn.Module):
    """The raw weights ``beta`` of edges and ``alpha`` of operators, padded to one table for all stages.

    Nodes of all stages follow one another as rows. Entry p of a row is the node's p-th candidate input, the farthest
    first; a node with fewer than L has entries behind them that nothing reads. A weight in use is the logistic function
    of its entry, so 1/2 at the start.

    Args:
        space: whose edges and operators.
        train_op_weights: False: ``alpha`` stays where it starts, as in the authors' script (section 3.6).

    Attributes:
        beta: (rows, L), of edges.
        alpha: (rows, L, operators).
        valid: (rows, L), which entries are edges.
        counts: (rows,), candidate inputs of a node: m.
    """

    valid: Tensor
    counts: Tensor

    def __init__(self, space: LChainSpace, train_op_weights: bool = True) -> None:
        super().__init__()
        self.space = space
        counts = [len(space.sources(s, node)) for s, total in enumerate(space.nodes) for node in range(1, total + 1)]
        self.beta = nn.Parameter(1e-5 * torch.randn(len(counts), space.length))
        alpha = 1e-5 * torch.randn(len(counts), space.length, len(space.ops))
        self.alpha = nn.Parameter(alpha, requires_grad=train_op_weights)
        self.register_buffer("counts", torch.tensor(counts), persistent=False)
        self.register_buffer("valid", torch.arange(space.length) < self.counts[:, None], persistent=False)
        self._masks: dict[tuple[ActiveNodes, torch.device], Tensor] = {}

    def edge_weights(self) -> Tensor:
        """Weights of edges in [0, 1], (rows, L)."""
        return self.beta.sigmoid()

    def op_weights(self) -> Tensor:
        """Weights of operators in [0, 1], (rows, L, operators)."""
        return self.alpha.sigmoid()

    def row(self, stage: int, node: int) -> int:
        """The row of ``node`` (from 1) of ``stage`` (from 0)."""
        return sum(self.space.nodes[:stage]) + node - 1

    def active_rows(self, active: ActiveNodes) -> Tensor:
        """Which rows are active nodes, (rows,) bool, on the device of the weights.

        Raises:
            InputError: ``active`` does not fit the space.
        """
        device, chosen = self.beta.device, as_active(active)

        def mask() -> Tensor:
            require_nodes(self.space, chosen)
            rows = torch.zeros(len(self.beta), dtype=torch.bool)
            rows[[self.row(stage, node) for stage, nodes in enumerate(chosen) for node in nodes]] = True
            return rows.to(device)

        return remembered(self._masks, (chosen, device), mask)

    def by_node(self) -> list[dict[int, dict[int, float]]]:
        """Of each stage: node to source to weight of the edge."""
        weights = self.tables()[0].tolist()
        return [
            {
                node: dict(zip(self.space.sources(stage, node), weights[self.row(stage, node)]))
                for node in range(1, count + 1)
            }
            for stage, count in enumerate(self.space.nodes)
        ]

    @torch.no_grad()
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights of edges, (rows, L), and of operators, (rows, L, operators), for numpy."""
        return self.edge_weights().cpu().numpy(), self.op_weights().cpu().numpy()
