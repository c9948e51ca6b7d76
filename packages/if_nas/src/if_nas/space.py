"""The L-chain search space (section 3.1): stages that are lines of nodes, each fed by any of its L predecessors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log10

import numpy as np

from vireo.errors import InputError

from .genotype import Connection, Edge, Genotype, prune_dead_nodes


@dataclass(frozen=True)
class LChainSpace:
    """Which nodes there are, what each may read, and through which operators.

    Attributes:
        nodes: of each stage.
        length: L, how many predecessors a node may read. With ``candidates`` it bounds the number of sources and
            says nothing about how far they are; see :attr:`longest`.
        ops: the candidate operators of every edge.
        candidates: another graph: per stage, node to sources in ascending order. None: the L nearest predecessors.
            A node out of turn keeps its last source; only if that is the direct predecessor, of all nodes, is a
            schedule free of interleaving.

    Raises:
        InputError: nodes or a length that are not whole numbers, operators that are not names, no stage, a stage
            without nodes, no operator or one that stands twice, a length below 1, or ``candidates`` with a dead end:
            a node that reads nothing, or one before the last that nobody reads.
    """

    nodes: tuple[int, ...] = (18, 20, 18)
    length: int = 8
    ops: tuple[str, ...] = ("skip", "conv3")
    candidates: tuple[Mapping[int, tuple[int, ...]], ...] | None = None

    def __post_init__(self) -> None:
        where = "search space"
        if not isinstance(self.nodes, Sequence) or any(type(count) is not int for count in self.nodes):
            raise InputError(f"nodes {self.nodes!r} are no whole numbers", where, "use for example (6, 6, 6)")
        if type(self.length) is not int:
            raise InputError(f"length {self.length!r} is no whole number", where, "use 1 or more, e.g. 4")
        named = isinstance(self.ops, Sequence) and not isinstance(self.ops, str)
        if not named or not all(isinstance(name, str) for name in self.ops):
            raise InputError(f"operators {self.ops!r} are no list of names", where, "use for example ('skip', 'conv3')")
        if not self.nodes or min(self.nodes) < 1:
            raise InputError(f"{list(self.nodes)} nodes are no stages", where, "give each stage one node or more")
        if self.length < 1:
            raise InputError(f"length {self.length} leaves nodes without input", where, "use 1 or more, e.g. 4")
        if not self.ops or len(set(self.ops)) < len(self.ops):
            raise InputError(f"operators {list(self.ops)}", where, "name at least one operator, and each once")
        if self.candidates is not None:
            self._require_no_dead_ends()

    def sources(self, stage: int, node: int) -> tuple[int, ...]:
        """What ``node`` (from 1) of ``stage`` (from 0) may read, ascending: the last is the direct predecessor."""
        if self.candidates is not None:
            return tuple(self.candidates[stage][node])
        return tuple(range(max(0, node - self.length), node))

    def edges(self, stage: int) -> list[Edge]:
        """All (source, node) of ``stage`` (from 0), by node and then source: the order of operators and weights."""
        return [(source, node) for node in range(1, self.nodes[stage] + 1) for source in self.sources(stage, node)]

    @property
    def longest(self) -> int:
        """The longest connection: the largest distance between a node and what it may read."""
        return max(node - source for stage in range(len(self.nodes)) for source, node in self.edges(stage))

    @property
    def num_edges(self) -> int:
        """Edges of all stages."""
        return sum(len(self.edges(stage)) for stage in range(len(self.nodes)))

    def log10_size(self) -> float:
        """Decimal logarithm of the number of architectures.

        A node may keep any non-empty set of its (edge, operator) pairs. As published, the last node of a stage is not
        counted.
        """
        sizes = (
            (1 << len(self.ops) * len(self.sources(stage, node))) - 1
            for stage, count in enumerate(self.nodes)
            for node in range(1, count)
        )
        return sum(map(log10, sizes))

    def full(self) -> Genotype:
        """All connections at once: what the super-network holds."""
        return Genotype(
            tuple(
                {
                    node: tuple(Connection(op, source) for source in self.sources(stage, node) for op in self.ops)
                    for node in range(1, count + 1)
                }
                for stage, count in enumerate(self.nodes)
            )
        )

    def random(self, generator: np.random.Generator, max_inputs: int = 3) -> Genotype:
        """Draw an architecture as the random-search baseline does (section 3.9).

        Each node takes n distinct (operator, source) pairs, n uniform in 1 to ``max_inputs`` (or what it has); then
        dead nodes go.

        Raises:
            InputError: ``max_inputs`` is below 1.
        """
        if max_inputs < 1:
            raise InputError(
                f"max_inputs {max_inputs} leaves nodes without input", "LChainSpace.random", "use 1 or more"
            )
        stages = []
        for stage in self.full().stages:
            chosen = {}
            for node, connections in stage.items():
                count = int(generator.integers(1, min(max_inputs, len(connections)) + 1))
                picked = sorted(generator.choice(len(connections), count, replace=False).tolist())
                chosen[node] = tuple(connections[index] for index in picked)
            stages.append(chosen)
        return prune_dead_nodes(Genotype(tuple(stages)))

    def sample_subnet(self, generator: np.random.Generator) -> Genotype:
        """Draw a sub-network with one incoming edge per node and all its operators, without dead nodes (section 10)."""
        stages = []
        for stage, count in enumerate(self.nodes):
            chosen = {}
            for node in range(1, count + 1):
                source = int(generator.choice(self.sources(stage, node)))
                chosen[node] = tuple(Connection(op, source) for op in self.ops)
            stages.append(chosen)
        return prune_dead_nodes(Genotype(tuple(stages)))

    def _require_no_dead_ends(self) -> None:
        assert self.candidates is not None
        if len(self.candidates) != len(self.nodes):
            what = f"candidates of {len(self.candidates)} stages for {len(self.nodes)} stages"
            raise InputError(what, "search space", "give one mapping for each stage")
        for number, (count, stage) in enumerate(zip(self.nodes, self.candidates), 1):
            read = {source for sources in stage.values() for source in sources}
            for node in range(1, count + 1):
                where, sources = f"search space, stage {number}, node {node}", list(stage.get(node, ()))
                if not sources:
                    raise InputError("is a dead end: it reads nothing", where, "give it an earlier node, or 0")
                whole = all(type(source) is int for source in sources)
                if not whole or sources != sorted(set(sources)) or sources[0] < 0 or sources[-1] >= node:
                    remedy = "give earlier nodes, or 0, in ascending order"
                    raise InputError(f"cannot read {sources}", where, remedy)
                if len(sources) > self.length:
                    raise InputError(f"reads {len(sources)} nodes", where, f"give at most length, {self.length}")
            for node in sorted(set(range(1, count)) - read):
                where = f"search space, stage {number}, node {node}"
                raise InputError("is a dead end: nobody reads it", where, "let a later node read it")
