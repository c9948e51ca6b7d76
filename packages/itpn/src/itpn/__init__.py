"""iTPN: hierarchical transformers pre-trained together with their feature pyramid (arXiv 2211.12735, CVPR 2023).

The public surface is imported on first use, so that ``import itpn`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .hivit import HiViT as HiViT

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
