"""FGC: feature-gate coupling for dynamic network pruning (arXiv 2111.14302).

The public surface is imported on first use, so that ``import fgc`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .attach import attach_gates as attach_gates
    from .bank import MemoryBank as MemoryBank
    from .blocks import GatedBasicBlock as GatedBasicBlock
    from .blocks import gated_blocks as gated_blocks
    from .compact import compact_static_gates as compact_static_gates
    from .coupling import FeatureGateCoupling as FeatureGateCoupling
    from .executor import ConditionalExecutor as ConditionalExecutor
    from .gate import ChannelGate as ChannelGate
    from .gate import binary_concrete_ste as binary_concrete_ste
    from .gate import gate_noise as gate_noise
    from .latency import measure_latency as measure_latency
    from .macs import count_macs as count_macs
    from .neighborhoods import gate_purity as gate_purity
    from .neighborhoods import neighbor_overlap as neighbor_overlap
    from .objective import RhoController as RhoController
    from .official import from_official as from_official
    from .official import to_official as to_official
    from .resnet import GatedResNet as GatedResNet
    from .resnet import gated_resnet20 as gated_resnet20
    from .resnet import gated_resnet32 as gated_resnet32
    from .resnet import gated_resnet56 as gated_resnet56
    from .schedules import Recipe as Recipe
    from .shaping import batch_shaping_loss as batch_shaping_loss
    from .shaping import expected_gate_rate as expected_gate_rate

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
