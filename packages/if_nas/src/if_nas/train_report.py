"""The HTML page of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vireo.report import Table, write_report

from .genotype import Genotype
from .load import read_architecture

ACCURACIES = ("top1", "top5")


def write_run_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run of ``if-nas-train`` from the files in its folder, with its network drawn."""
    architecture, width = read_architecture(folder)
    result = json.loads((folder / "metrics.json").read_text())
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    nodes, depths = (" + ".join(map(str, values)) for values in (architecture.num_nodes, architecture.depths))
    about = [("width", width), ("nodes", nodes), ("longest paths", depths)]
    pictures = []
    if isinstance(architecture, Genotype):
        from .drawing import write_drawing

        (folder / "gallery").mkdir(exist_ok=True)
        pictures.append(folder / "gallery" / "network.png")
        write_drawing(pictures[0], architecture)
    return write_report(
        folder,
        "IF-NAS: derived network",
        result["config"],
        [_with_accuracies_only(record) for record in records],
        result["metrics"],
        paper_metrics=paper_metrics,
        gallery=[("Network", pictures)] if pictures else [],
        tables=[Table("Network", ("property", "value"), about), best_epochs(records)],
    )


def best_epochs(records: Sequence[Mapping[str, Any]]) -> Table:
    """The best accuracy of each kind over the evaluations of a log, and the epoch that reached it first."""
    rows = []
    for name in ACCURACIES:
        scored = [
            (record["metrics"][name], record["epoch"] + 1)
            for record in records
            if record.get("kind") == "eval" and name in record["metrics"]
        ]
        if scored:
            value, epoch = max(scored, key=lambda entry: entry[0])
            rows.append((f"{name}, epoch {epoch}", value))
    return Table("Best epochs", ("metric", "%"), rows)


def _with_accuracies_only(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record of the log whose metrics make a curve: what the network costs does not change."""
    if record.get("kind") != "eval":
        return record
    return {**record, "metrics": {name: value for name, value in record["metrics"].items() if name in ACCURACIES}}
