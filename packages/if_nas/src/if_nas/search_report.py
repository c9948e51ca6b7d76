"""The HTML page of a search: edge weights by distance over time, depth and cost of what was found, its drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vireo import report
from vireo.report import plot_lines

from .genotype import Genotype
from .history import read_edge_weights
from .micro_genotype import read_any_genotype
from .published import GENOTYPE_FILE

Record = Mapping[str, Any]
Lines = dict[str, tuple[list[float], list[float]]]


def write_search_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a search from the files in its folder, and ``network.svg`` of its architecture."""
    architecture = read_any_genotype(folder / GENOTYPE_FILE)
    drawings: dict[str, bytes] = {}
    if isinstance(architecture, Genotype):  # of stages, which can be drawn
        from .drawing import write_drawing

        path = folder / "network.svg"
        write_drawing(path, architecture, edge_weights=read_edge_weights(folder / GENOTYPE_FILE))
        drawings["The architecture, its edges as wide as they weigh; those that cross are highlighted"] = (
            path.read_bytes()
        )

    def figures(records: Sequence[Record]) -> dict[str, bytes]:
        return drawings | search_curves(records)

    return report.write_run_report(folder, "IF-NAS: search", {}, paper_metrics=paper_metrics, own_curves=figures)


def search_curves(records: Sequence[Record]) -> dict[str, bytes]:
    """Over the epochs of a log: edge weights by distance, short-edge preference, depth, multiply-adds, accuracy."""
    panels: dict[str, tuple[Lines, str]] = {
        "Mean edge weight by distance": (lines(records, _distances), "weight"),
        "Weight at distance 1 minus that of the others": (lines(records, _only("preference")), "difference"),
        "Longest path of the architecture": (lines(records, _only("depth")), "edges"),
        "Multiply-adds of the architecture": (lines(records, _macs), "millions"),
        "Accuracy of the super-network": (lines(records, _only("top1")), "top-1, %"),
    }
    return {title: plot_lines(found, "epoch", unit) for title, (found, unit) in panels.items() if found}


def lines(records: Sequence[Record], values: Callable[[Mapping[str, Any]], Mapping[str, float | None]]) -> Lines:
    """Named lines over epochs, which count from 1.

    Args:
        records: of a log.
        values: from the metrics of an epoch to the value of each line; None for no point.
    """
    found: Lines = {}
    for record in records:
        if record.get("kind") == "eval":
            for name, value in values(record["metrics"]).items():
                if value is not None:
                    x, y = found.setdefault(name, ([], []))
                    x.append(record["epoch"] + 1)
                    y.append(value)
    return found


def _distances(metrics: Mapping[str, Any]) -> dict[str, float]:
    return dict(metrics["edge_weight"])


def _macs(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {"macs": metrics["cost"]["macs"] / 1e6}


def _only(name: str) -> Callable[[Mapping[str, Any]], dict[str, float | None]]:
    return lambda metrics: {name: metrics.get(name)}
