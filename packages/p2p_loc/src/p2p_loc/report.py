"""The page of a run: how labels and locations changed from round to round."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vireo.report import write_report as write_page
from vireo.report.curves import plot_lines
from vireo.report.html import Table

from .gallery import PICTURES
from .location import NO_OBJECTS

TITLE = "P2P-Loc"
_LABELS = {  # of the statistics of a round's labels
    "error": "label error",
    "improved": "nearer to the true centre",
    "moved": "moved",
    "movement": "way, px",
    "size": "size, px",
}


def write_report(
    folder: Path, paper_metrics: Mapping[str, float] | None = None, title: str = TITLE, tables: Sequence[Table] = ()
) -> Path:
    """``report.html`` of a run from the files in its folder.

    Args:
        folder: of a run of ``p2p-train`` with ``rounds.json`` and ``metrics.json``.
        paper_metrics: published numbers for this setting, of the names of our metrics.
        title: heading of the page.
        tables: further tables, shown first.
    """
    result = json.loads((folder / "metrics.json").read_text())
    rows = json.loads((folder / "rounds.json").read_text())
    log = (folder / f"round_{rows[-1]['round']}" / "log.jsonl").read_text().splitlines()
    metrics = {name: value for name, value in result["metrics"].items() if name != "per_class"}
    found = {heading: sorted((folder / "gallery").glob(f"{pattern}.png")) for heading, pattern in PICTURES.items()}
    return write_page(
        folder,
        title,
        result["config"],
        [_of_all_sizes(json.loads(line)) for line in log],
        {name: value for name, value in metrics.items() if "_" not in name},
        paper_metrics=paper_metrics,
        gallery=[(heading, files) for heading, files in found.items() if files],
        tables=[
            *tables,
            rounds_table(rows),
            *size_tables(metrics),
            *class_tables(result["metrics"].get("per_class", {})),
        ],
        curves=round_curves(rows),
    )


def rounds_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each round: its labels, and what a detector trained on them finds.

    Args:
        rows: the content of ``rounds.json``.
    """
    names = [name for name in rows[0].get("metrics") or {} if _is_shown(name)]
    known = [name for name in _LABELS if rows[0]["labels"].get(name) is not None]
    lines = []
    for row in rows:
        labels = [f"{row['labels'][name]:.3f}" if name in known else "" for name in known]
        metrics = row.get("metrics") or {}
        lines.append([row["round"], *labels, *(f"{metrics[name]:.4f}" for name in names)])
    return Table("Rounds", ("round", *(_LABELS[name] for name in known), *names), lines)


def size_tables(metrics: Mapping[str, float]) -> list[Table]:
    """A line for each range of sizes that has objects; none where there is no range."""
    names = [name for name in metrics if _is_shown(name)]
    sizes = list(dict.fromkeys(name[3:].partition("@")[0] for name in metrics if name.startswith("AP_")))
    rows = []
    for size in sizes:
        values = [metrics[name.replace("@", f"_{size}@")] for name in names]
        if max(values, default=NO_OBJECTS) > NO_OBJECTS:
            rows.append([size, *(f"{value:.4f}" for value in values)])
    return [Table("Sizes, last round", ("size", *names), rows)] if rows else []


def class_tables(per_class: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """A line for each class with its average precision; no table of a single class."""
    if len(per_class) < 2:
        return []
    names = [name for name in next(iter(per_class.values())) if _is_shown(name)]
    rows = [
        [kind, *(f"{row[name]:.4f}" if row[name] > NO_OBJECTS else "" for name in names)]
        for kind, row in per_class.items()
    ]
    return [Table("Classes, last round", ("class", *names), rows)]


def round_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Average precision and label error over the rounds as SVG; none for a single round."""
    if len(rows) < 2:
        return {}
    numbers = [row["round"] for row in rows]
    curves = {}
    scored = [row for row in rows if row.get("metrics")]
    names = [name for name in (scored[0]["metrics"] if scored else {}) if _is_shown(name)]
    if names and len(scored) == len(rows):
        lines = {name: (numbers, [row["metrics"][name] for row in rows]) for name in names}
        curves["Locations by round"] = plot_lines(lines, "round", "average precision")
    if all(row["labels"].get("error") is not None for row in rows):
        lines = {"label error": (numbers, [row["labels"]["error"] for row in rows])}
        curves["Labels by round"] = plot_lines(lines, "round", "distance to the true centre, in sides")
    return curves


def _of_all_sizes(record: dict[str, Any]) -> dict[str, Any]:
    """A record of the log without metrics of single ranges of sizes: curves of all of them cannot be told apart."""
    if "metrics" not in record:
        return record
    return {**record, "metrics": {name: value for name, value in record["metrics"].items() if _is_shown(name)}}


def _is_shown(name: str) -> bool:
    """Whether a metric is an average precision over objects of all sizes."""
    return name.startswith("AP@") and "_" not in name
