"""What a super-network computes for a set of active nodes, worked out once per set (section 3.4).

Edges of a stage are numbered as in ``space.edges(stage)``: by node, and of a node the farthest input first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from vireo.errors import InputError

from .genotype import Genotype
from .schedule import ActiveNodes
from .space import LChainSpace

Key = TypeVar("Key")
Value = TypeVar("Value")
Span = tuple[int, int]
"""(first edge, number of edges)"""


@dataclass(frozen=True)
class Call:
    """Operators evaluated on neighbouring edges of one node at once.

    Attributes:
        ops: indices of the operators in ``space.ops``.
        span: the edges.
        sources: what each of them reads.
    """

    ops: tuple[int, ...]
    span: Span
    sources: tuple[int, ...]


@dataclass(frozen=True)
class NodeStep:
    """How one node is computed.

    Attributes:
        node: its number.
        calls: summed up.
        row: its row of the architecture weights, by which candidates are weighted; None: without weights.
        scale: 2 / m, m being the number of candidate inputs.
        frees: nodes that nobody reads any more.
    """

    node: int
    calls: tuple[Call, ...]
    row: int | None
    scale: float
    frees: tuple[int, ...] = ()


@dataclass(frozen=True)
class StagePlan:
    """The nodes of one stage, in order; the last is its output."""

    steps: tuple[NodeStep, ...]

    def spans(self, op: int) -> list[Span]:
        """The edges on which operator number ``op`` runs, each span once, in ascending order."""
        return sorted({call.span for step in self.steps for call in step.calls if op in call.ops})


Plan = tuple[StagePlan, ...]
MAX_REMEMBERED = 64  # sets of active nodes: more than any schedule of phases has, but random subsets never end


def remembered(cache: dict[Key, Value], key: Key, make: Callable[[], Value]) -> Value:
    """``cache[key]``, made first if it is not there; a full cache is emptied."""
    if key not in cache:
        if len(cache) >= MAX_REMEMBERED:
            cache.clear()
        cache[key] = make()
    return cache[key]


def as_active(active: Sequence[Sequence[int]]) -> ActiveNodes:
    """Active nodes as tuples, which can be looked up, from lists and the like.

    Raises:
        InputError: not a sequence of sequences.
    """
    if not isinstance(active, Sequence) or not all(isinstance(nodes, Sequence) for nodes in active):
        what = f"{active!r} are no nodes of every stage"
        raise InputError(what, "active", "ask the schedule with nodes=space.nodes")
    return tuple(tuple(nodes) for nodes in active)


def require_nodes(space: LChainSpace, active: ActiveNodes) -> None:
    """Check that ``active`` is about the nodes of ``space``.

    Raises:
        InputError: another number of stages, or a node that does not exist.
    """
    if len(active) != len(space.nodes):
        what = f"active nodes of {len(active)} stages, the search space has {len(space.nodes)}"
        raise InputError(what, "active", "ask the schedule with nodes=space.nodes")
    for stage, (nodes, count) in enumerate(zip(active, space.nodes), 1):
        strange = [node for node in nodes if not (isinstance(node, int) and 1 <= node <= count)]
        if strange:
            raise InputError(f"no node {strange[0]} in stage {stage}", "active", f"nodes are 1 to {count}")


def phase_plan(space: LChainSpace, active: ActiveNodes, *, legacy: bool = False, dense: bool = False) -> Plan:
    """Active nodes take all their candidates, weighted; of the others only the direct predecessor counts.

    Args:
        space: of the super-network.
        active: of each stage.
        legacy: number edges as the authors' code does (section 8, item 2): a node begins at half of its number, so
            that nodes share edges.
        dense: evaluate all candidates of all nodes; the weights of inactive nodes must then be 0 but for the last.

    Raises:
        InputError: ``active`` is not about these stages or names a node that does not exist.
    """
    require_nodes(space, active)
    all_ops = tuple(range(len(space.ops)))
    stages, row = [], 0
    for stage, count in enumerate(space.nodes):
        firsts = _first_edges(space, stage, legacy)
        steps = []
        for node in range(1, count + 1):
            sources, first = space.sources(stage, node), firsts[node - 1]
            weighted = dense or node in active[stage]
            if not weighted:
                first, sources_used = first + len(sources) - 1, sources[-1:]
            else:
                sources_used = sources
            call = Call(all_ops, (first, len(sources_used)), sources_used)
            steps.append(NodeStep(node, (call,), row if weighted else None, 2 / len(sources)))
            row += 1
        stages.append(_freeing(steps))
    return tuple(stages)


def subnet_plan(space: LChainSpace, genotype: Genotype, *, legacy: bool = False) -> Plan:
    """The connections of ``genotype`` alone, without weights: a node is ``2 / m`` times their sum.

    m is the number of candidates in the space, as for an inactive node; a genotype with the direct predecessors and
    all operators is a super-network without active nodes.

    Raises:
        InputError: the genotype has another number of stages, or a connection that the space has not.
    """
    if len(genotype.stages) != len(space.nodes):
        what = f"{len(genotype.stages)} stages, the search space has {len(space.nodes)}"
        raise InputError(what, "sub-network", "draw it from the same space")
    stages = []
    for stage, nodes in enumerate(genotype.stages):
        firsts = _first_edges(space, stage, legacy)
        steps = []
        for node, connections in nodes.items():
            where = f"sub-network, stage {stage + 1}, node {node}"
            sources = space.sources(stage, node) if node <= space.nodes[stage] else ()
            reads: dict[int, list[int]] = {}
            for op, source in connections:
                if source not in sources or op not in space.ops:
                    raise InputError(f"no {op} from {source} in the search space", where, "draw it from the same space")
                reads.setdefault(source, []).append(space.ops.index(op))
            calls = tuple(
                Call(tuple(ops), (firsts[node - 1] + sources.index(source), 1), (source,))
                for source, ops in reads.items()
            )
            steps.append(NodeStep(node, calls, None, 2 / len(sources)))
        stages.append(_freeing(steps))
    return tuple(stages)


def bank_size(space: LChainSpace, stage: int, legacy: bool) -> int:
    """How many operators of a kind a stage has: one per edge, or fewer where nodes share them."""
    return _first_edges(space, stage, legacy)[-1] + len(space.sources(stage, space.nodes[stage]))


def _first_edges(space: LChainSpace, stage: int, legacy: bool) -> list[int]:
    """Of each node the number of its first edge."""
    counts = [len(space.sources(stage, node)) for node in range(1, space.nodes[stage] + 1)]
    firsts = accumulate(counts[:-1], initial=0)
    return [first // 2 for first in firsts] if legacy else list(firsts)


def swapped_rows(space: LChainSpace) -> list[bool]:
    """Of each node of all stages: whether the authors' numbering of edges swaps its two operators' weights."""
    swapped = []
    for stage, count in enumerate(space.nodes):
        before = 0
        for node in range(1, count + 1):
            swapped.append(before % 2 == 1)
            before += len(space.sources(stage, node))
    return swapped


def _freeing(steps: Iterable[NodeStep]) -> StagePlan:
    """The steps, each told what it is the last to read."""
    seen: set[int] = set()
    backwards = []
    for step in reversed(list(steps)):
        read = {source for call in step.calls for source in call.sources}
        backwards.append(NodeStep(step.node, step.calls, step.row, step.scale, tuple(sorted(read - seen))))
        seen |= read
    return StagePlan(tuple(reversed(backwards)))
