"""The paper in one line (arXiv number).

The public surface is imported on first use, so that ``import paper_name`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .model import SmallNet as SmallNet
    from .official import from_official as from_official

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
