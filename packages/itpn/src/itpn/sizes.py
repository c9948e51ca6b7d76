"""The published sizes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vireo.errors import InputError

from .hivit import HiViT

if TYPE_CHECKING:
    from .fast import FastITPN

# sections 3.1 and 3.9; tiny, small and base of HiViT are those of its own paper (arXiv 2205.14949)
SIZES: Mapping[str, Mapping[str, Any]] = {
    "hivit_tiny": {"embed_dim": 384, "depths": (1, 1, 10), "num_heads": 6},
    "hivit_small": {"embed_dim": 384, "depths": (2, 2, 20), "num_heads": 6},
    "hivit_base": {"embed_dim": 512, "depths": (2, 2, 20), "num_heads": 8},
    "itpn_base": {"embed_dim": 512, "depths": (3, 3, 24), "num_heads": 8},
    "itpn_large": {"embed_dim": 768, "depths": (2, 2, 40), "num_heads": 12},
    "fast_itpn_tiny": {"embed_dim": 384, "depths": (1, 1, 12), "num_heads": 6},
    "fast_itpn_small": {"embed_dim": 384, "depths": (2, 2, 20), "num_heads": 6},
    "fast_itpn_base": {"embed_dim": 512, "depths": (3, 3, 24), "num_heads": 8},
    "fast_itpn_large": {"embed_dim": 768, "depths": (2, 2, 40), "num_heads": 12},
}


def itpn_backbone(name: str, **options: Any) -> HiViT | FastITPN:
    """A backbone by its published name.

    Args:
        name: one of :data:`SIZES`.
        **options: of :class:`~itpn.HiViT` or :class:`~itpn.FastITPN`; they come before the size's own.

    Raises:
        InputError: an unknown name or option, or sizes that do not fit each other.
    """
    if name not in SIZES:
        raise InputError(f"unknown backbone {name!r}", "model.name", f"use one of {', '.join(SIZES)}")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    network: Any = HiViT
    if name.startswith("fast_"):
        from .fast import FastITPN as network
    try:
        built: HiViT | FastITPN = network(**{**SIZES[name], **options})
    except TypeError as error:
        what = str(error).partition(") ")[2] or str(error)
        raise InputError(what, f"model {name}", f"see the arguments of {network.__name__}") from error
    return built
