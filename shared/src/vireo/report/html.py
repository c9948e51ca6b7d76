"""The page of a run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vireo.report.curves import plot_curves

_MAX_SIDE = 1400  # of an embedded picture; larger ones are reduced
_UNDEFINED = "–"
_NOT_RUN = "not run at this scale"


@dataclass(frozen=True)
class Table:
    """A table of the report: ``columns`` are the headings, ``rows`` hold one value (text or number) per column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def show(self) -> None:
        """Print it on the console."""
        from rich.console import Console
        from rich.table import Table as Lines

        lines = Lines(*self.columns, title=self.title)
        for row in self.rows:
            lines.add_row(*map(str, row))
        Console().print(lines)


@dataclass(frozen=True)
class _Figure:
    caption: str
    source: str  # data URI


@dataclass(frozen=True)
class _MetricRow:
    name: str
    ours: str
    paper: str
    missing: bool


def write_report(
    run_dir: str | Path,
    title: str,
    config: Mapping[str, Any],
    log_records: Iterable[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    *,
    paper_metrics: Mapping[str, float] | None = None,
    paper_note: str = "",
    gallery: Sequence[tuple[str, Sequence[str | Path | np.ndarray]]] = (),
    tables: Sequence[Table] = (),
    curves: Mapping[str, bytes] | None = None,
) -> Path:
    """Write ``run_dir/report.html``: metrics, curves, pictures, tables and configuration of a run.

    Args:
        run_dir: existing folder of the run.
        title: heading of the page.
        config: nested plain mapping, shown with dotted keys.
        log_records: the mappings of ``log.jsonl``.
        metrics: name to number; a nested mapping (``per_class``) becomes a table of its own. -1 and None: undefined.
        paper_metrics: the paper's numbers, same names and unit as ``metrics``. One that this run lacks is listed as not
            run at this scale.
        paper_note: where the paper's numbers stand and for which setting, e.g. ``"Table 1, COCO val, 40 % noise"``.
        gallery: sections of pictures: title and picture files or uint8 (H, W, 3) arrays. A file's name is its caption.
        tables: further tables, shown before the metrics.
        curves: title to SVG of further curves (:func:`~vireo.report.curves.plot_lines`), shown before those of the log.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: a picture file is missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    records = list(log_records)
    drawings = {**(curves or {}), **plot_curves(records)}
    environment = Environment(
        loader=PackageLoader("vireo.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = _number
    scalars = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    nested = [
        Table(_heading(name), ("name", "value"), list(value.items()))
        for name, value in metrics.items()
        if isinstance(value, Mapping) and value
    ]
    page = environment.get_template("report.html.jinja").render(
        title=title,
        facts=_facts(records),
        highlights=[(name, _number(value)) for name, value in scalars.items() if _number(value) != _UNDEFINED][:4],
        metrics=_metric_rows(scalars, paper_metrics or {}),
        has_paper=bool(paper_metrics),
        paper_note=paper_note,
        curves=[_Figure(name, _data_uri(svg, "image/svg+xml")) for name, svg in drawings.items()],
        gallery=[(heading, [_picture(entry) for entry in pictures]) for heading, pictures in gallery],
        tables=tables,
        per_class=nested,
        config=_sections(config),
        events=[_event(record) for record in records if record.get("kind") == "event"],
    )
    path = Path(run_dir) / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def write_run_report(
    folder: Path,
    title: str,
    pictures: Mapping[str, str],
    *,
    paper_metrics: Mapping[str, float] | None = None,
    tables: Sequence[Table] = (),
    own_curves: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, bytes]] | None = None,
) -> Path:
    """``report.html`` of a run from ``metrics.json``, ``log.jsonl`` and ``gallery/`` in its folder.

    Args:
        folder: of the run.
        title: heading of the page.
        pictures: heading to file pattern within ``gallery/``; sections without a picture are left out.
        paper_metrics, tables: see :func:`write_report`.
        own_curves: further curves, title to SVG, made of the records of the log.
    """
    result = json.loads((folder / "metrics.json").read_text())
    records: list[dict[str, Any]] = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found = {heading: sorted((folder / "gallery").glob(pattern)) for heading, pattern in pictures.items()}
    return write_report(
        folder,
        title,
        result["config"],
        records,
        result["metrics"],
        paper_metrics=paper_metrics,
        gallery=[(heading, files) for heading, files in found.items() if files],
        tables=tables,
        curves=None if own_curves is None else own_curves(records),
    )


def _metric_rows(ours: Mapping[str, Any], paper: Mapping[str, float]) -> list[_MetricRow]:
    """This run's metrics in their order, then those only the paper has."""
    names = [*ours, *(name for name in paper if name not in ours)]
    return [
        _MetricRow(
            name,
            _number(ours[name]) if name in ours else _NOT_RUN,
            _number(paper.get(name)),
            name not in ours,
        )
        for name in names
    ]


def _number(value: Any) -> str:
    """A metric for reading: three or four significant digits, a dash for what is undefined (None, NaN, -1)."""
    if value is None or (isinstance(value, int | float) and (value == -1 or not math.isfinite(value))):
        return _UNDEFINED
    if isinstance(value, bool | int | str):
        return str(value)
    try:
        value = float(value)
    except (TypeError, ValueError):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _facts(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the log says about the run as a whole."""
    train = [r for r in records if r.get("kind") == "train"]
    facts = []
    if train:
        facts.append(("epochs", str(int(train[-1].get("epoch", 0)) + 1)))
        facts.append(("steps", f"{int(train[-1].get('step', len(train))):,}"))
        speeds = [r["images_per_s"] for r in train if r.get("images_per_s")]
        if speeds:
            facts.append(("images/s (median)", f"{np.median(speeds):.1f}"))
    times = [r["time"] for r in records if isinstance(r.get("time"), int | float)]
    if len(times) > 1:
        minutes = (max(times) - min(times)) / 60
        facts.append(("elapsed", f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"))
    if times:
        facts.append(("finished", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(times)))))
    return facts


def _event(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.items() if key not in ("kind", "time"))


def _sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Top-level keys as sections of dotted keys; values that stand alone come first, under no heading."""
    single = [(str(k), _plain(v)) for k, v in config.items() if not isinstance(v, Mapping)]
    sections = [(str(k), _flatten(v)) for k, v in config.items() if isinstance(v, Mapping)]
    return ([("general", single)] if single else []) + [(name, rows) for name, rows in sections if rows]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _plain(value)))
    return rows


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _heading(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _picture(entry: str | Path | np.ndarray) -> _Figure:
    """A picture as a data URI: PNG where that is small (drawings), else JPEG without chroma loss."""
    if isinstance(entry, np.ndarray):
        caption, image = "", Image.fromarray(entry)
    else:
        with Image.open(entry) as opened:
            caption, image = Path(entry).stem.replace("_", " "), opened.convert("RGB")
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    if png.tell() < 150_000:
        return _Figure(caption, _data_uri(png.getvalue(), "image/png"))
    image.save(jpeg, "JPEG", quality=90, subsampling=0)
    return _Figure(caption, _data_uri(jpeg.getvalue(), "image/jpeg"))


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
