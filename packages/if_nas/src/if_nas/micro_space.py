"""The DARTS micro space: what a cell may be (section 3.9). Experimental: a reconstruction, no settings are published.

Nodes of a cell are numbered from 1, as in an L-chain. Node 0 is the output of the previous cell and node -1 that of the
one before, so that the direct predecessor of node ``i`` is ``i - 1`` here too. In genotypes states are numbered as in
DARTS: node ``i`` is state ``i + 1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, log10

import numpy as np

from vireo.errors import InputError

from .genotype import Connection, Edge
from .micro_genotype import CELL_INPUTS, MICRO_OPERATORS, CellNodes, MicroGenotype


@dataclass(frozen=True)
class MicroSpace:
    """Cells whose nodes read two of all earlier states, through one operator each.

    A normal and a reduction cell have the same graph.

    Attributes:
        nodes: intermediate nodes of a cell.
        ops: candidate operators of every edge. ``none`` competes in the search but is never derived.

    Raises:
        InputError: no node, no operator beside ``none``, an unknown one, or one that stands twice.
    """

    nodes: int = 4
    ops: tuple[str, ...] = MICRO_OPERATORS

    def __post_init__(self) -> None:
        where = "micro space"
        if type(self.nodes) is not int or self.nodes < 1:
            raise InputError(f"{self.nodes!r} nodes are no cell", where, "use 1 or more, e.g. 4")
        unknown = sorted(set(self.ops) - set(MICRO_OPERATORS))
        if unknown:
            what = f"unknown operator {', '.join(map(repr, unknown))}"
            raise InputError(what, where, f"use {', '.join(MICRO_OPERATORS)}")
        if not set(self.ops) - {"none"} or len(set(self.ops)) < len(self.ops):
            what = f"operators {list(self.ops)}"
            raise InputError(what, where, "name at least one operator beside none, and each once")

    def sources(self, node: int) -> tuple[int, ...]:
        """What ``node`` (from 1) may read, ascending from -1: the last is the direct predecessor."""
        return tuple(range(1 - CELL_INPUTS, node))

    def edges(self) -> list[Edge]:
        """All (source, node) of a cell, by node and then source: the order of operators and weights."""
        return [(source, node) for node in range(1, self.nodes + 1) for source in self.sources(node)]

    def log10_size(self) -> float:
        """Decimal logarithm of the number of architectures, 1.1e18 for the space of DARTS (section 3.1).

        Each node of both cells takes two of its sources and for each one operator, ``none`` excepted.
        """
        operators = len(set(self.ops) - {"none"})
        return 2 * sum(log10(comb(len(self.sources(node)), 2) * operators**2) for node in range(1, self.nodes + 1))

    def random(self, generator: np.random.Generator) -> MicroGenotype:
        """Draw an architecture uniformly."""
        shape = (len(self.edges()), len(self.ops))
        return self.derive(generator.random(shape), generator.random(shape))

    def derive(self, normal: np.ndarray, reduce: np.ndarray) -> MicroGenotype:
        """The architecture of the strongest edges, by the rule of DARTS.

        An edge is as strong as its strongest operator, ``none`` excepted. A node keeps that operator of its two
        strongest edges, the first on ties.

        Args:
            normal, reduce: weights of each kind of cell, (edges, operators) in the order of :meth:`edges` and ``ops``.
        """
        outputs = tuple(range(CELL_INPUTS, CELL_INPUTS + self.nodes))
        return MicroGenotype(self._strongest(normal), outputs, self._strongest(reduce), outputs)

    def _strongest(self, weights: np.ndarray) -> CellNodes:
        candidates = [index for index, op in enumerate(self.ops) if op != "none"]
        best = weights[:, candidates].argmax(1)
        strength = weights[:, candidates].max(1)
        rows = {edge: row for row, edge in enumerate(self.edges())}
        nodes = []
        for node in range(1, self.nodes + 1):
            ranked = sorted(self.sources(node), key=lambda source: -strength[rows[source, node]])
            first, second = (
                Connection(self.ops[candidates[best[rows[source, node]]]], source + 1)
                for source in sorted(ranked[:CELL_INPUTS])
            )
            nodes.append((first, second))
        return tuple(nodes)


def gold_nas_log10_size(cells: int = 14, nodes: int = 4, ops: int = 2) -> float:
    """Decimal logarithm of the size of GOLD-NAS's space, 3.1e117 as published (section 3.1).

    Every cell is its own, and each node keeps any non-empty set of its (edge, operator) pairs.
    """
    sizes = (2 ** (ops * sources) - 1 for sources in range(CELL_INPUTS, CELL_INPUTS + nodes))
    return cells * sum(map(log10, sizes))
