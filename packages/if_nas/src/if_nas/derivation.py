"""From edge and operator weights to an architecture (section 3.7)."""

from __future__ import annotations

import numpy as np

from vireo.errors import InputError

from .genotype import Connection, Genotype, Stage, prune_dead_nodes
from .space import LChainSpace


def derive_genotype(
    space: LChainSpace,
    edge_weights: np.ndarray,
    op_weights: np.ndarray,
    threshold: float = 0.1,
    keep: int | None = None,
    op_threshold: float | None = None,
) -> Genotype:
    """Keep the strong edges of every node and their strong operators, then remove dead nodes.

    Args:
        space: the nodes, their candidate inputs and the operators.
        edge_weights: sigmoids of beta, (sum N, L). A row belongs to a node, by stage and number; its first columns to
            the node's sources, in ascending order. What lies behind them is not read.
        op_weights: sigmoids of alpha, (sum N, L, O), operators in the order of ``space.ops``.
        threshold: a node keeps the edges that weigh more, and always its strongest, the first on ties.
        keep: a node keeps this many of its strongest edges instead.
        op_threshold: a kept edge keeps the operators that weigh more, and always its strongest. None: ``threshold``.

    Raises:
        InputError: weights of other shapes or that are not finite, a threshold outside [0, 1), ``keep`` below 1.
    """
    return prune_dead_nodes(keep_strong(space, edge_weights, op_weights, threshold, keep, op_threshold))


def keep_strong(
    space: LChainSpace,
    edge_weights: np.ndarray,
    op_weights: np.ndarray,
    threshold: float = 0.1,
    keep: int | None = None,
    op_threshold: float | None = None,
) -> Genotype:
    """:func:`derive_genotype` with the dead nodes still there."""
    op_threshold = threshold if op_threshold is None else op_threshold
    _require_rule(threshold, keep, op_threshold)
    _require_weights(space, edge_weights, op_weights)
    stages: list[Stage] = []
    row = 0
    for stage, count in enumerate(space.nodes):
        nodes: Stage = {}
        for node in range(1, count + 1):
            sources = space.sources(stage, node)
            weights = edge_weights[row, : len(sources)]
            kept = _strongest(weights, keep) if keep is not None else _above(weights, threshold)
            nodes[node] = tuple(
                Connection(space.ops[op], sources[position])
                for position in kept
                for op in _above(op_weights[row, position], op_threshold)
            )
            row += 1
        stages.append(nodes)
    return Genotype(tuple(stages))


def _above(weights: np.ndarray, threshold: float) -> list[int]:
    """Positions above the threshold, ascending; the first of the largest if there are none."""
    found: list[int] = np.flatnonzero(weights > threshold).tolist()
    return found or [int(np.argmax(weights))]


def _strongest(weights: np.ndarray, count: int) -> list[int]:
    """Positions of the ``count`` largest, ascending; the first ones on ties."""
    chosen: list[int] = np.argsort(-weights, kind="stable")[:count].tolist()
    return sorted(chosen)


def _require_rule(threshold: float, keep: int | None, op_threshold: float) -> None:
    for name, value in (("threshold", threshold), ("op_threshold", op_threshold)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            remedy = "weights are sigmoids: use a number from 0 up to, not including, 1"
            raise InputError(f"{name} {value!r} is out of range", "derive", remedy)
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise InputError(f"keep {keep!r} is no number of edges", "derive", "use 1 or more, or leave it out")


def _require_weights(space: LChainSpace, edge_weights: np.ndarray, op_weights: np.ndarray) -> None:
    rows = sum(space.nodes)
    wanted = {"edge weights": (rows, space.length), "operator weights": (rows, space.length, len(space.ops))}
    for (name, shape), weights in zip(wanted.items(), (edge_weights, op_weights)):
        if weights.shape != shape:
            what = f"{name} have the shape {weights.shape}, not {shape}"
            raise InputError(what, "derive", "give the weights of this search space")
        if not np.isfinite(weights).all():
            raise InputError(f"{name} are not finite", "derive", "the search diverged; lower its learning rates")
