"""The HTML page of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vireo import report
from vireo.report import Table

from .genotype import Genotype
from .load import read_architecture


def write_run_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run of ``if-nas-train`` from the files in its folder, with its network drawn."""
    architecture, width = read_architecture(folder)
    if isinstance(architecture, Genotype):
        from .drawing import write_drawing

        (folder / "gallery").mkdir(exist_ok=True)
        write_drawing(folder / "gallery" / "network.png", architecture)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    nodes, depths = (" + ".join(map(str, values)) for values in (architecture.num_nodes, architecture.depths))
    about = Table("Network", ("", ""), [("width", width), ("nodes", nodes), ("longest paths", depths)])
    tables = [about, best_epochs(records)]
    return report.write_run_report(
        folder, "IF-NAS: derived network", {"Network": "network.png"}, paper_metrics=paper_metrics, tables=tables
    )


def best_epochs(records: Sequence[Mapping[str, Any]]) -> Table:
    """The best accuracy of each kind over the evaluations of a log, and when it was reached."""
    evaluations = [record for record in records if record.get("kind") == "eval"]
    rows = []
    for name in ("top1", "top5"):
        scored = [(record["metrics"][name], record["epoch"] + 1) for record in evaluations if name in record["metrics"]]
        if scored:
            value, epoch = max(scored, key=lambda entry: entry[0])
            rows.append((f"{name}, epoch {epoch}", value))
    return Table("Best epochs", ("metric", "%"), rows)
