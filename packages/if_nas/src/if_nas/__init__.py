"""IF-NAS: interleaving-free architecture search in spaces with long-distance connections (arXiv 2112.02488).

The public surface is imported on first use, so that ``import if_nas`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .genotype import Connection as Connection
    from .genotype import Genotype as Genotype
    from .genotype import prune_dead_nodes as prune_dead_nodes
    from .genotype import read_genotype as read_genotype
    from .genotype import write_genotype as write_genotype
    from .schedule import InterleavingFreeSchedule as InterleavingFreeSchedule
    from .schedule import RandomSubsetSchedule as RandomSubsetSchedule
    from .schedule import are_interleaved as are_interleaved
    from .schedule import has_interleaving as has_interleaving
    from .space import LChainSpace as LChainSpace

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
