"""Which nodes are judged together: the interleaving-free schedule and the baselines in its place (section 3.4).

A node that is active sees all its candidate inputs; the others keep the edge from their direct predecessor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Protocol

import numpy as np

from vireo.errors import InputError

from .genotype import Edge, Genotype, keep_connections

ActiveNodes = tuple[tuple[int, ...], ...]
"""Of each stage, the numbers (from 1) of the active nodes, ascending."""


class Schedule(Protocol):
    """Says which nodes are active.

    Attributes:
        period: phases until all nodes have had their turn.
    """

    period: int

    def active(self, turn: int, nodes: Sequence[int]) -> ActiveNodes:
        """The active nodes of stages with so many ``nodes`` in turn number ``turn`` (from 0) of the search."""


class InterleavingFreeSchedule:
    """Activate the nodes ``i`` with ``(i - 1) mod period == phase``; phases take turns (section 3.4).

    With a period of at least ``length`` no two connections of the sampled graph are interleaved.

    Args:
        length: L, the longest connection.
        period: P; None: L + 1, as in the authors' code. The paper's figure has L, the smallest interleaving-free one.
            1 activates every node always: the search without sampling (DNAS). With more than a stage has nodes, some
            phases activate none of them.

    Raises:
        InputError: ``length`` or ``period`` is below 1.
    """

    def __init__(self, length: int, period: int | None = None) -> None:
        for name, value in (("length", length), ("period", period)):
            if value is not None and value < 1:
                raise InputError(f"{name} {value} is not positive", type(self).__name__, "use 1 or more")
        self.length = length
        self.period = length + 1 if period is None else period

    def phase(self, turn: int) -> int:
        """The phase, 0 to P - 1, of turn number ``turn``, from 0."""
        return turn % self.period

    def active_nodes(self, phase: int, num_nodes: int) -> tuple[int, ...]:
        """Numbers, from 1, of the active nodes of a line of ``num_nodes``."""
        return tuple(range(self.phase(phase) + 1, num_nodes + 1, self.period))

    def active(self, turn: int, nodes: Sequence[int]) -> ActiveNodes:
        """The active nodes of stages with so many ``nodes`` in turn number ``turn``."""
        return tuple(self.active_nodes(self.phase(turn), count) for count in nodes)


class RandomSubsetSchedule:
    """Activate as many nodes as an interleaving-free schedule would, but any: fewer nodes, yet interleaved.

    What is drawn depends on ``seed`` and the turn alone.

    Raises:
        InputError: ``period`` is below 1.
    """

    def __init__(self, period: int, seed: int = 0) -> None:
        if period < 1:
            raise InputError(f"period {period} is not positive", type(self).__name__, "use 1 or more")
        self.period, self.seed = period, seed

    def active(self, turn: int, nodes: Sequence[int]) -> ActiveNodes:
        """The active nodes of stages with so many ``nodes`` in turn number ``turn``."""
        generator = np.random.default_rng((self.seed, turn))
        sizes = [len(range(turn % self.period, count, self.period)) for count in nodes]
        drawn = [generator.choice(count, size, replace=False) + 1 for count, size in zip(nodes, sizes)]
        return tuple(tuple(sorted(chosen.tolist())) for chosen in drawn)


def every_node(nodes: Sequence[int]) -> ActiveNodes:
    """All nodes of stages with so many ``nodes``."""
    return tuple(tuple(range(1, count + 1)) for count in nodes)


def are_interleaved(first: Edge, second: Edge) -> bool:
    """Whether two connections a -> c and b -> d of one stage cross when drawn as arcs: a < b < c < d (section 3.4)."""
    (a, c), (b, d) = sorted((first, second))
    return a < b < c < d


def interleaved_pairs(edges: Iterable[Edge]) -> list[tuple[Edge, Edge]]:
    """The pairs of ``edges`` that are interleaved, each with the earlier source first, sorted."""
    return [pair for pair in combinations(sorted(set(edges)), 2) if are_interleaved(*pair)]


def has_interleaving(edges: Iterable[Edge]) -> bool:
    """Whether any two of ``edges`` are interleaved."""
    return bool(interleaved_pairs(edges))


def sampled_edges(num_nodes: int, length: int, active: Iterable[int]) -> list[Edge]:
    """The connections alive in a line of ``num_nodes``: all L of ``active`` nodes, one of the others."""
    chosen = set(active)
    return [
        (source, node)
        for node in range(1, num_nodes + 1)
        for source in range(max(0, node - length) if node in chosen else node - 1, node)
    ]


def sampled_genotype(genotype: Genotype, turn: int, length: int) -> Genotype:
    """The authors' sampler of genotypes: node ``i`` is active where ``(i - turn) mod (length + 1) == 0``.

    ``turn`` therefore counts from 1, other than the phases of the search. A node that is not active keeps its last
    connection only; then dead nodes go. The search does not use it.
    """

    def chosen(stage: int, node: int) -> Sequence[tuple[str, int]]:
        connections = genotype.stages[stage][node]
        return connections if (node - turn) % (length + 1) == 0 else connections[-1:]

    return keep_connections(genotype, chosen)  # type: ignore[arg-type]
