"""How a super-network ranks sub-networks (section 10): their accuracy in it, and how well two rankings agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vireo.errors import InputError

from .genotype import Genotype
from .space import LChainSpace

MOST_DRAWS = 100  # for each sub-network that is wanted


def draw_subnets(space: LChainSpace, count: int, seed: int) -> list[Genotype]:
    """Different sub-networks with one input a node; the first ones do not depend on ``count``.

    Raises:
        InputError: the space has hardly so many.
    """
    found: list[Genotype] = []
    for number in range(MOST_DRAWS * count):
        subnet = space.sample_subnet(np.random.default_rng((seed, number)))
        if subnet not in found:
            found.append(subnet)
        if len(found) == count:
            return found
    raise InputError(
        f"only {len(found)} different sub-networks", f"count={count}", "rank fewer, or search a larger space"
    )


@torch.no_grad()
def estimate_batch_norm(network: nn.Module, forward: Callable[[Tensor], Tensor], batches: Iterable[Any]) -> None:
    """Set the running statistics of batch norms to the mean of those of these batches; nothing else changes.

    Args:
        network: left in evaluation mode.
        forward: of the network, on images; what it does not run keeps its statistics.
        batches: of an evaluation loader, so that images are not augmented.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.train()
    for number, (images, _) in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1 / number  # the mean of what came so far
        forward(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    network.eval()


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
