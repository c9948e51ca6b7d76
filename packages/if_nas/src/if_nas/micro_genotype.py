"""Cells as data: architectures of the DARTS micro space. Experimental: a reconstruction (section 3.9).

States of a cell are numbered as in DARTS (Liu et al., ICLR 2019, arXiv 1806.09055): 0 is the output of the cell before
the previous one, 1 that of the previous cell, 2 and on are the intermediate nodes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vireo.errors import InputError

from .genotype import Connection, Genotype, read_content

MICRO_OPERATORS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The operators of DARTS, in its order. ``none`` takes part in the search only."""

CELL_INPUTS = 2
"""States that a cell is given, and states that each of its nodes reads."""

CellNodes = tuple[tuple[Connection, Connection], ...]
"""Of each intermediate node its two inputs; sources are numbers of states."""


@dataclass(frozen=True)
class MicroGenotype:
    """A normal cell and a reduction cell. A node is the sum of its two inputs, a cell the concatenation of nodes.

    Attributes:
        normal: intermediate nodes of the normal cell.
        normal_concat: numbers of the states that make its output.
        reduce: intermediate nodes of the reduction cell.
        reduce_concat: numbers of the states that make its output.

    Raises:
        InputError: a cell without nodes, an input that is no earlier state, an unknown operator or ``none``, or an
            output that is no intermediate node.
    """

    normal: CellNodes
    normal_concat: tuple[int, ...]
    reduce: CellNodes
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, nodes, concat in self._cells():
            where = f"genotype, {name} cell"
            if not nodes:
                raise InputError("has no node", where, "give two inputs for each of its nodes")
            for state, inputs in enumerate(nodes, CELL_INPUTS):
                for op, source in inputs:
                    if op not in MICRO_OPERATORS[1:]:
                        raise InputError(f"unknown operator {op!r}", where, f"use {', '.join(MICRO_OPERATORS[1:])}")
                    if not 0 <= source < state:
                        what = f"state {state} reads state {source}, which is no earlier one"
                        raise InputError(what, where, f"read 0 to {state - 1}")
            last = CELL_INPUTS + len(nodes) - 1
            if not concat or len(set(concat)) < len(concat) or min(concat) < CELL_INPUTS or max(concat) > last:
                what = f"its output {list(concat)} is no set of intermediate nodes"
                raise InputError(what, where, f"name states from {CELL_INPUTS} to {last}, each once")

    def _cells(self) -> tuple[tuple[str, CellNodes, tuple[int, ...]], ...]:
        return ("normal", self.normal, self.normal_concat), ("reduce", self.reduce, self.reduce_concat)

    @property
    def num_nodes(self) -> tuple[int, ...]:
        """Intermediate nodes of the normal and of the reduction cell."""
        return len(self.normal), len(self.reduce)

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators in use, sorted."""
        return tuple(sorted({op for _, nodes, _ in self._cells() for inputs in nodes for op, _ in inputs}))

    @property
    def depths(self) -> tuple[int, ...]:
        """Of the normal and of the reduction cell, edges of the longest path from an input to its output."""
        depths = []
        for _, nodes, concat in self._cells():
            longest = [0] * CELL_INPUTS
            for inputs in nodes:
                longest.append(1 + max(longest[source] for _, source in inputs))
            depths.append(max(longest[state] for state in concat))
        return tuple(depths)

    @property
    def depth(self) -> int:
        """Edges of the longest path through one cell of each kind."""
        return sum(self.depths)

    def to_dict(self) -> dict[str, list[Any]]:
        """The form of DARTS: ``{"normal": [["sep_conv_3x3", 0], ...], "normal_concat": [2, 3, 4, 5], ...}``.

        Two connections for each node, one node after the other.
        """
        content: dict[str, list[Any]] = {}
        for name, nodes, concat in self._cells():
            content[name] = [list(connection) for inputs in nodes for connection in inputs]
            content[f"{name}_concat"] = list(concat)
        return content

    @classmethod
    def from_dict(cls, content: Any, where: str = "genotype") -> MicroGenotype:
        """The inverse of :meth:`to_dict`.

        Args:
            content: as read from JSON; keys other than the four are ignored.
            where: how messages name it.

        Raises:
            InputError: another form, or what :class:`MicroGenotype` refuses.
        """
        if not is_micro(content):
            raise InputError("is no genotype of cells", where, 'write {"normal": [["sep_conv_3x3", 0], ...], ...}')
        normal, reduce = (_nodes(content[name], f"{where}, {name}") for name in ("normal", "reduce"))
        outputs = [_concat(content.get(f"{name}_concat"), f"{where}, {name}_concat") for name in ("normal", "reduce")]
        try:
            return cls(normal, outputs[0], reduce, outputs[1])
        except InputError as error:
            raise InputError(error.what, error.where.replace("genotype", where, 1), error.remedy) from None


def is_micro(content: Any) -> bool:
    """Whether what was read from JSON is meant as cells, rather than as stages of an L-chain."""
    return isinstance(content, Mapping) and "normal" in content and "reduce" in content


def read_any_genotype(path: str | os.PathLike[str]) -> Genotype | MicroGenotype:
    """The genotype of a JSON file, of stages or of cells.

    Raises:
        InputError: no such file, not JSON, or no genotype of either form.
    """
    return genotype_from_dict(read_content(path), str(path))


def genotype_from_dict(content: Any, where: str = "genotype") -> Genotype | MicroGenotype:
    """The genotype, of stages or of cells, that was read from JSON.

    Raises:
        InputError: it has neither form.
    """
    return MicroGenotype.from_dict(content, where) if is_micro(content) else Genotype.from_dict(content, where)


def _nodes(connections: Any, where: str) -> CellNodes:
    if not isinstance(connections, Sequence) or isinstance(connections, str) or len(connections) % CELL_INPUTS:
        raise InputError("is no list of two inputs per node", where, 'write [["sep_conv_3x3", 0], ["skip_connect", 1]]')
    found = [_connection(entry, where) for entry in connections]
    return tuple(zip(found[::2], found[1::2]))


def _connection(entry: Any, where: str) -> Connection:
    pair = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else []
    if len(pair) != 2 or not isinstance(pair[0], str) or type(pair[1]) is not int:
        raise InputError(f"{entry!r} is no connection", where, 'write [operator, state], e.g. ["skip_connect", 0]')
    return Connection(*pair)


def _concat(states: Any, where: str) -> tuple[int, ...]:
    if not isinstance(states, Sequence) or isinstance(states, str) or any(type(state) is not int for state in states):
        raise InputError(f"{states!r} is no list of states", where, "write e.g. [2, 3, 4, 5]")
    return tuple(states)


def _published(normal: str, reduce: str) -> MicroGenotype:
    """Of inputs written ``operator:state``, the operator shortened to its kind and kernel."""
    names = {"max": "max_pool_3x3", "avg": "avg_pool_3x3", "skip": "skip_connect"}
    names |= {kind + size: f"{kind}_conv_{size}x{size}" for kind in ("sep", "dil") for size in "35"}
    cells = [[word.split(":") for word in cell.split()] for cell in (normal, reduce)]
    flat = [[[names[op], int(source)] for op, source in cell] for cell in cells]
    concat = [2, 3, 4, 5]
    content = {"normal": flat[0], "normal_concat": concat, "reduce": flat[1], "reduce_concat": concat}
    return MicroGenotype.from_dict(content)


MICRO_GENOTYPES: Mapping[str, MicroGenotype] = {
    "darts_v1": _published(
        "sep3:1 sep3:0 skip:0 sep3:1 skip:0 sep3:1 sep3:0 skip:2", "max:0 max:1 skip:2 max:0 max:0 skip:2 skip:2 avg:0"
    ),
    "darts_v2": _published(
        "sep3:0 sep3:1 sep3:0 sep3:1 sep3:1 skip:0 skip:0 dil3:2", "max:0 max:1 skip:2 max:1 max:0 skip:2 skip:2 max:1"
    ),
    "pc_darts_cifar": _published(
        "sep3:1 skip:0 sep3:0 dil3:1 sep5:0 sep3:1 avg:0 dil3:1",
        "sep5:1 max:0 sep5:1 sep5:2 sep3:0 sep3:3 sep3:1 sep3:2",
    ),
    "pc_darts_imagenet": _published(
        "skip:1 sep3:0 sep3:0 skip:1 sep3:1 sep3:3 sep3:1 dil5:4",
        "sep3:0 skip:1 dil5:2 max:1 sep3:2 sep3:1 sep5:0 sep3:3",
    ),
}
"""Published cells: DARTS, first and second order (arXiv 1806.09055), and PC-DARTS, searched on CIFAR-10 and on ImageNet
(arXiv 1907.05737)."""
