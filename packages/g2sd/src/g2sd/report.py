"""The HTML pages of classification runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vireo.report import write_run_report


def write_finetuning_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a fine-tuning run from the files in its folder: metrics and curves."""
    return write_run_report(folder, "Fine-tuning for G2SD", {}, paper_metrics=paper_metrics)
