"""How well one ranking of sub-networks predicts another."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from vireo.errors import InputError


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's rank correlation, corrected for ties (tau-b): 1 for the same order, -1 for the reverse.

    Args:
        first, second: a score of each sub-network, in the same order, e.g. accuracies in the super-network and alone.

    Returns:
        A number in [-1, 1]; NaN where all scores of one side are the same, which ranks nothing.

    Raises:
        InputError: different numbers of scores, fewer than two, or one that is not finite.
    """
    from scipy.stats import kendalltau

    where = "kendall_tau"
    if len(first) != len(second) or len(first) < 2:
        raise InputError(f"{len(first)} and {len(second)} scores", where, "give two or more, and as many of each")
    if not all(isfinite(score) for score in (*first, *second)):
        raise InputError("a score is not finite", where, "leave out what was not measured")
    return float(kendalltau(first, second).statistic)
