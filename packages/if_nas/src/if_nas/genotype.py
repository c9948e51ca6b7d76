"""Architectures as data: for every node of every stage the operators that feed it and what they read.

Nodes of a stage are numbered from 1, node 0 is the stage's input and the last node its output (section 3.7).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vireo.errors import InputError


class Connection(NamedTuple):
    """One operator on one edge.

    Attributes:
        op: name of the operator, e.g. ``"conv3"``.
        source: number of the node that is read, 0 for the input of the stage.
    """

    op: str
    source: int


Stage = dict[int, tuple[Connection, ...]]
"""What feeds each node, by its number, ascending."""
Edge = tuple[int, int]
"""(source, node)"""
MAX_NODES = 10_000  # of a stage


@dataclass(frozen=True)
class Genotype:
    """A network of one or more stages. A node is the plain sum of its connections.

    A connection may stand twice: it then counts twice, with weights of its own. Numbers of nodes may have gaps.

    Attributes:
        stages: of each stage, its nodes in ascending order.

    Raises:
        InputError: no stage, a stage without nodes, a node number beyond 10,000, a node without inputs, or an input
            that is no earlier node.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("has no stage", "genotype", "give at least one stage with one node")
        for number, stage in enumerate(self.stages, 1):
            where = f"genotype, stage {number}"
            if not stage:
                raise InputError("has no node", where, "give at least node 1, fed by node 0")
            if list(stage) != sorted(stage) or min(stage) < 1:
                raise InputError(f"nodes {list(stage)} are not ascending from 1", where, "number them in order")
            if max(stage) > MAX_NODES:
                raise InputError(f"node {max(stage)} is beyond {MAX_NODES}", where, "number nodes without large gaps")
            for node, connections in stage.items():
                if not connections:
                    raise InputError("has no input", f"{where}, node {node}", "give it one, or leave the node out")
                for op, source in connections:
                    if source != 0 and (source not in stage or source >= node):
                        what = f"reads node {source} ({op}), which is no earlier node of the stage"
                        raise InputError(what, f"{where}, node {node}", "read 0 or an earlier node that is there")

    @property
    def num_nodes(self) -> tuple[int, ...]:
        """Nodes of each stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators in use, sorted."""
        return tuple(sorted({op for stage in self.stages for inputs in stage.values() for op, _ in inputs}))

    @property
    def depths(self) -> tuple[int, ...]:
        """Of each stage, edges of the longest path from its input to its last node."""
        depths = []
        for stage in self.stages:
            longest = {0: 0}
            for node, connections in stage.items():
                longest[node] = 1 + max(longest[source] for _, source in connections)
            depths.append(longest[max(stage)])
        return tuple(depths)

    @property
    def depth(self) -> int:
        """Edges of the longest path through all stages."""
        return sum(self.depths)

    def edges(self, stage: int) -> list[Edge]:
        """The pairs (source, node) of stage number ``stage``, from 0; each once, by node and source."""
        found = {(source, node) for node, connections in self.stages[stage].items() for _, source in connections}
        return sorted(found, key=lambda edge: (edge[1], edge[0]))

    def to_dict(self) -> dict[str, dict[str, list[list[Any]]]]:
        """``{"stage1": {"1": [["conv3", 0], ...]}}``, as it stands in a JSON file."""
        return {
            f"stage{number}": {str(node): [list(connection) for connection in inputs] for node, inputs in stage.items()}
            for number, stage in enumerate(self.stages, 1)
        }

    @classmethod
    def from_dict(cls, content: Any, where: str = "genotype") -> Genotype:
        """The inverse of :meth:`to_dict`; the authors' dictionaries have the same form.

        Args:
            content: as read from JSON; keys other than ``stage1``, ``stage2``, ... are ignored.
            where: how messages name it.

        Raises:
            InputError: another form, or what :class:`Genotype` refuses.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("stage1"), Mapping):
            remedy = 'write {"stage1": {"1": [["conv3", 0]], "2": ...}, "stage2": ...}, as if-nas-derive does'
            raise InputError("is no genotype: it has no stage1", where, remedy)
        stages: list[Stage] = []
        while isinstance(stage := content.get(f"stage{len(stages) + 1}"), Mapping):
            nodes = {
                _node(node, where): _connections(inputs, f"{where}, node {node}") for node, inputs in stage.items()
            }
            if len(nodes) < len(stage):
                raise InputError("a node stands twice", f"{where}, stage {len(stages) + 1}", "name each node once")
            stages.append(dict(sorted(nodes.items())))
        left = sorted(key for key in content if key.startswith("stage") and key[5:].isdigit())
        if len(left) > len(stages):
            raise InputError(f"stages {', '.join(left)} do not follow one another", where, "number them 1, 2, 3")
        try:
            return cls(tuple(stages))
        except InputError as error:
            raise InputError(error.what, error.where.replace("genotype", where, 1), error.remedy) from None

    def require_operators(self, known: Iterable[str], where: str = "genotype") -> None:
        """Check that all operators are among ``known``.

        Raises:
            InputError: some are not.
        """
        unknown = sorted(set(self.operators) - set(known))
        if unknown:
            what = f"unknown operator {', '.join(map(repr, unknown))}"
            raise InputError(what, where, f"use {', '.join(sorted(known))}, or register it with register_operator")


def read_genotype(path: str | os.PathLike[str]) -> Genotype:
    """The genotype of a JSON file.

    Raises:
        InputError: no such file, not JSON, or no genotype.
    """
    return Genotype.from_dict(read_content(path), str(path))


def read_content(path: str | os.PathLike[str]) -> Any:
    """What stands in a JSON file that should hold a genotype.

    Raises:
        InputError: no such file, or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", str(path), "give a JSON file of a genotype") from error
    except (ValueError, RecursionError) as error:  # the latter of lists within lists within lists
        raise InputError(f"is not JSON ({error})", str(path), "give a file as if-nas-derive writes it") from error


def write_genotype(path: str | os.PathLike[str], genotype: Genotype, **about: Any) -> None:
    """Write a genotype as JSON; ``about`` says under keys of its own where it comes from."""
    from vireo.engine.logs import write_json

    write_json(Path(path), {**genotype.to_dict(), **about})


def prune_dead_nodes(genotype: Genotype) -> Genotype:
    """Remove every node but the last that nobody reads, until there is none. Numbers do not change (section 3.7)."""
    stages = []
    for stage in genotype.stages:
        last, read, kept = max(stage), {max(stage)}, []
        for node in sorted(stage, reverse=True):  # who reads a node comes behind it
            if node in read or node == last:
                kept.append(node)
                read.update(source for _, source in stage[node])
        stages.append({node: stage[node] for node in sorted(kept)})
    return Genotype(tuple(stages))


def keep_connections(genotype: Genotype, chosen: Callable[[int, int], Sequence[Connection]]) -> Genotype:
    """The genotype with only the connections ``chosen(stage, node)``, stages from 0, and no dead nodes."""
    stages = tuple({node: tuple(chosen(s, node)) for node in stage} for s, stage in enumerate(genotype.stages))
    return prune_dead_nodes(Genotype(stages))


def _node(key: Any, where: str) -> int:
    try:
        return int(key)
    except (TypeError, ValueError):
        raise InputError(f"{key!r} is no number of a node", where, "number nodes 1, 2, 3") from None


def _connections(inputs: Any, where: str) -> tuple[Connection, ...]:
    if not isinstance(inputs, Sequence) or isinstance(inputs, str):
        raise InputError("has no list of connections", where, 'write [["conv3", 0], ["skip", 0]]')
    found = []
    for entry in inputs:
        pair = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else []
        if len(pair) != 2 or not isinstance(pair[0], str) or type(pair[1]) is not int:
            raise InputError(f"{entry!r} is no connection", where, 'write [operator, node], e.g. ["conv3", 0]')
        found.append(Connection(*pair))
    return tuple(found)
