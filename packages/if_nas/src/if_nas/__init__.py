"""IF-NAS: interleaving-free architecture search in spaces with long-distance connections (arXiv 2112.02488).

The public surface is imported on first use, so that ``import if_nas`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .arch import ArchWeights as ArchWeights
    from .cost import Cost as Cost
    from .cost import count_cost as count_cost
    from .cost import fit_width as fit_width
    from .derivation import derive_genotype as derive_genotype
    from .derived import DerivedNetwork as DerivedNetwork
    from .drawing import draw_genotype as draw_genotype
    from .drawing import write_drawing as write_drawing
    from .genotype import Connection as Connection
    from .genotype import Genotype as Genotype
    from .genotype import prune_dead_nodes as prune_dead_nodes
    from .genotype import read_genotype as read_genotype
    from .genotype import write_genotype as write_genotype
    from .load import load_run as load_run
    from .losses import discretization_loss as discretization_loss
    from .micro_genotype import MicroGenotype as MicroGenotype
    from .micro_network import MicroNetwork as MicroNetwork
    from .micro_space import MicroSpace as MicroSpace
    from .micro_supernet import MicroSupernet as MicroSupernet
    from .official import from_official as from_official
    from .official import to_official as to_official
    from .operators import register_operator as register_operator
    from .optim import SearchSGD as SearchSGD
    from .published import GENOTYPES as GENOTYPES
    from .ranking import draw_subnets as draw_subnets
    from .ranking import estimate_batch_norm as estimate_batch_norm
    from .ranking import kendall_tau as kendall_tau
    from .schedule import InterleavingFreeSchedule as InterleavingFreeSchedule
    from .schedule import RandomSubsetSchedule as RandomSubsetSchedule
    from .schedule import are_interleaved as are_interleaved
    from .schedule import has_interleaving as has_interleaving
    from .schedule import sampled_edges as sampled_edges
    from .search_load import load_search as load_search
    from .search_network import SearchNetwork as SearchNetwork
    from .space import LChainSpace as LChainSpace
    from .supernet import LChainSupernet as LChainSupernet

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
