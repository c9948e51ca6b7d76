"""The HTML page of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vireo.report import write_run_report

from .gallery import PICTURES


def write_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run from the files in its folder: metrics, curves and pictures."""
    return write_run_report(folder, "DQnet", PICTURES, paper_metrics=paper_metrics)
