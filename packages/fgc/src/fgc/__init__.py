"""FGC: feature-gate coupling for dynamic network pruning (arXiv 2111.14302)."""

__version__ = "0.1.0"
