"""The super-network of the DARTS micro space with interleaving-free phases (section 3.9).

Experimental: no code and no settings are published for these spaces. It is the search of DARTS (arXiv 1806.09055: a
softmax over the operators of an edge, weights shared by all cells of a kind) under the schedule of the L-chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .auxiliary import Variant
from .micro_cell import CellNetwork, CellShape, build_micro_operator, cell_shapes
from .micro_genotype import CELL_INPUTS, MicroGenotype
from .micro_space import MicroSpace
from .schedule import ActiveNodes, every_node

EdgeOperatorWeights = Sequence[Sequence[Tensor]]
"""Of each edge a scalar per operator."""


class MixedEdge(nn.Module):
    """The weighted sum of all candidate operators; ``none`` adds nothing."""

    def __init__(self, ops: Sequence[str], channels: int, stride: int) -> None:
        super().__init__()
        self.positions = [position for position, op in enumerate(ops) if op != "none"]
        self.ops = nn.ModuleList()
        for position in self.positions:
            op = build_micro_operator(ops[position], channels, stride, affine=False)
            is_pool = isinstance(op, nn.MaxPool2d | nn.AvgPool2d)
            self.ops.append(nn.Sequential(op, nn.BatchNorm2d(channels, affine=False)) if is_pool else op)

    def forward(self, features: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """(B, C, H, W) and a scalar per candidate to (B, C, H / stride, W / stride)"""
        terms = [weights[position] * op(features) for position, op in zip(self.positions, self.ops)]
        return sum(terms[1:], terms[0])


class SearchCell(nn.Module):
    """A cell that holds every candidate.

    Args:
        space: the graph of the cell.
        shape: channels and resolution.
    """

    def __init__(self, space: MicroSpace, shape: CellShape) -> None:
        super().__init__()
        self.space = space
        self.preprocess0, self.preprocess1 = shape.preprocess(affine=False)
        self.rows = {edge: row for row, edge in enumerate(space.edges())}
        self.edges = nn.ModuleList(
            MixedEdge(space.ops, shape.channels, 2 if shape.reduction and source < 1 else 1)
            for source, _ in space.edges()
        )

    def forward(self, before: Tensor, previous: Tensor, weights: EdgeOperatorWeights, active: Sequence[int]) -> Tensor:
        """The outputs of the two cells before to (B, nodes * channels, H, W); nodes in ``active`` read all sources."""
        outputs = {-1: self.preprocess0(before), 0: self.preprocess1(previous)}
        nodes = range(1, self.space.nodes + 1)
        for node in nodes:
            rows = [(source, self.rows[source, node]) for source in self._read(node, active)]
            terms = [self.edges[row](outputs[source], weights[row]) for source, row in rows]
            outputs[node] = sum(terms[1:], terms[0])
        return torch.cat([outputs[node] for node in nodes], 1)

    def idle_parameters(self, active: Sequence[int]) -> Iterator[nn.Parameter]:
        """Those of the edges that do not run when these nodes are active."""
        for (source, node), row in self.rows.items():
            if source not in self._read(node, active):
                yield from self.edges[row].parameters()

    def _read(self, node: int, active: Sequence[int]) -> tuple[int, ...]:
        return self.space.sources(node) if node in active else (node - 1,)


class MicroSupernet(CellNetwork):
    """All architectures of a micro space at once, sharing their weights.

    An active node is the sum over all its sources of the mixed operators, weighted by a softmax over the operators of
    the edge. Any other node reads its direct predecessor only, with the same softmax: unlike an L-chain's two operators
    eight have no natural sum without weights. There is no factor for the number of sources; every cell begins with a
    normalisation of what it reads.

    Args:
        space: what a cell may be.
        width: channels of a node before the first reduction.
        num_classes: K.
        cells: how many.
        stem: ``"imagenet"`` of stride 8, ``"cifar"`` of stride 1.

    Attributes:
        nodes: of the normal and of the reduction cell, for the schedule: both are in the same phase.
        length: one less than the nodes of a cell, so that a schedule's usual period is that number, and one node is
            active at a time. With a smaller period active nodes are interleaved.
        alpha_normal, alpha_reduce: (edges, operators), before the softmax; shared by the cells of a kind.
        has_unused_parameters: False, edges out of turn get gradients of zeros.

    Raises:
        InputError: fewer than 3 cells, a width below 2, an unknown stem.
    """

    has_unused_parameters = False

    def __init__(
        self,
        space: MicroSpace | None = None,
        width: int = 16,
        num_classes: int = 10,
        cells: int = 8,
        stem: Variant = "cifar",
    ) -> None:
        space = MicroSpace() if space is None else space
        shapes = cell_shapes(cells, width, stem, space.nodes, space.nodes)
        super().__init__(width, stem)
        self.space, self.num_classes = space, num_classes
        self.nodes: tuple[int, ...] = (space.nodes, space.nodes)
        self.length = max(1, space.nodes - 1)
        self.reductions = [shape.reduction for shape in shapes]
        self.cells = nn.ModuleList(SearchCell(space, shape) for shape in shapes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(shapes[-1].channels * space.nodes, num_classes)
        size = (len(space.edges()), len(space.ops))
        self.alpha_normal = nn.Parameter(1e-3 * torch.randn(size))
        self.alpha_reduce = nn.Parameter(1e-3 * torch.randn(size))

    def forward(self, images: Tensor, active: ActiveNodes | None = None) -> Tensor:
        """Images (B, 3, H, W) to logits (B, K).

        Args:
            images: normalised.
            active: of the normal and of the reduction cell, the nodes that read all their sources; None: every node.
        """
        normal, reduce = every_node(self.nodes) if active is None else active
        kinds = [
            ([row.unbind() for row in alpha.softmax(1).unbind()], nodes)
            for alpha, nodes in ((self.alpha_normal, normal), (self.alpha_reduce, reduce))
        ]
        before, previous = self.first_inputs(images)
        for reduction, cell in zip(self.reductions, self.cells):
            before, previous = previous, cell(before, previous, *kinds[reduction])
        logits: Tensor = self.classifier(self.pool(previous).flatten(1))
        if not torch.is_grad_enabled():
            return logits
        idle = []
        for reduction, cell in zip(self.reductions, self.cells):
            idle += cell.idle_parameters(reduce if reduction else normal)  # type: ignore[operator]
        kept: Tensor = _ZeroGradients.apply(logits, *idle)
        return kept

    def architecture_parameters(self) -> list[nn.Parameter]:
        """What the search learns about operators and edges."""
        return [self.alpha_normal, self.alpha_reduce]

    def weight_parameters(self) -> list[nn.Parameter]:
        """All others."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alpha_")]

    def penalties(self, active: ActiveNodes | None = None) -> tuple[Tensor, Tensor]:
        """Zeros: the softmax makes operators compete, the discretisation loss of section 3.5 has no part in it."""
        zero = self.alpha_normal.new_zeros(())
        return zero, zero

    @torch.no_grad()
    def edge_weights(self) -> list[dict[int, dict[int, float]]]:
        """Of the normal and of the reduction cell: node to source to the weight of its strongest operator but ``none``.

        Sources are numbered from -1, see :class:`~if_nas.micro_space.MicroSpace`.
        """
        candidates = [index for index, op in enumerate(self.space.ops) if op != "none"]
        found: list[dict[int, dict[int, float]]] = []
        for alpha in self.architecture_parameters():
            strength = alpha.float().softmax(1)[:, candidates].amax(1).tolist()
            stage: dict[int, dict[int, float]] = {}
            for (source, node), weight in zip(self.space.edges(), strength):
                stage.setdefault(node, {})[source] = weight
            found.append(stage)
        return found

    @torch.no_grad()
    def derive(
        self, threshold: float = 0.1, keep: int | None = None, op_threshold: float | None = None
    ) -> MicroGenotype:
        """The architecture by the rule of DARTS: the two strongest inputs of each node.

        Args:
            threshold, op_threshold: have no part in that rule.
            keep: 2, or None for the same.

        Raises:
            InputError: another number to keep.
        """
        if keep not in (None, CELL_INPUTS):
            raise InputError(f"{keep!r} inputs of a node", "derive.keep", "leave it null: nodes of a cell keep two")
        normal, reduce = (alpha.float().softmax(1).cpu().numpy() for alpha in self.architecture_parameters())
        return self.space.derive(normal, reduce)


class _ZeroGradients(torch.autograd.Function):
    """The first input; the gradients of all others are zeros.

    With them a search treats weights that are not used in a phase as it does in an L-chain, and distributed training
    gets a gradient for each parameter.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, *idle: Tensor) -> Tensor:
        ctx.save_for_backward(*idle)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients[0], *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)
