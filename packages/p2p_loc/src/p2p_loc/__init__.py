"""P2P-Loc: Point to Point Tiny Person Localization (arXiv 2112.15344).

The public surface is imported on first use, so that ``import p2p_loc`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .annotations import Detections as Detections
    from .annotations import PointAnnotations as PointAnnotations

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
