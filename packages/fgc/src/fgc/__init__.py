"""FGC: feature-gate coupling for dynamic network pruning (arXiv 2111.14302).

The public surface is imported on first use, so that ``import fgc`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; _HOMES says the same to the interpreter
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

_HOMES = {
    "ChannelGate": "gate",
    "binary_concrete_ste": "gate",
    "gate_noise": "gate",
    "GatedBasicBlock": "blocks",
    "gated_blocks": "blocks",
    "GatedResNet": "resnet",
    "gated_resnet20": "resnet",
    "gated_resnet32": "resnet",
    "gated_resnet56": "resnet",
    "attach_gates": "attach",
    "batch_shaping_loss": "shaping",
    "expected_gate_rate": "shaping",
    "FeatureGateCoupling": "coupling",
    "MemoryBank": "bank",
    "Recipe": "schedules",
    "RhoController": "objective",
    "count_macs": "macs",
    "neighbor_overlap": "neighborhoods",
    "gate_purity": "neighborhoods",
    "ConditionalExecutor": "executor",
    "compact_static_gates": "compact",
    "measure_latency": "latency",
    "from_official": "official",
    "to_official": "official",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
