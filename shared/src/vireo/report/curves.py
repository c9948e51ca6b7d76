"""Curves of a training log as small SVG pictures that follow the reader's light or dark mode."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Series = dict[str, tuple[list[float], list[float]]]
"""Name of a curve to its x and y values."""

_POINTS = 400  # of a curve; a longer one is averaged over equal stretches
_LINES = ("#3689ff", "#f0900a", "#00a884", "#f4436c", "#9b6bff", "#b8860b", "#29b6d8", "#7a9a1e", "#c56b9b", "#8a93a0")
_SIZE = (3.7, 2.3)  # inches; small, so that its text stays legible in a narrow column
_INK = "#010203"  # stands for the text colour until the SVG is written
_STYLE = "<style>svg{color:#3c434b}@media(prefers-color-scheme:dark){svg{color:#c2c9d1}}</style>"


def plot_curves(log_records: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """Pictures of a run's log (``log.jsonl``, one mapping a record).

    ``train`` records give the curves of the total loss, of each loss, of the learning rate and of the speed; ``eval``
    records those of the metrics. Values that are not finite numbers, and metrics of -1 (undefined), are left out; so is
    a picture without a curve.

    Returns:
        Title to SVG (UTF-8 bytes, no external resources, transparent background).
    """
    records = list(log_records)
    train = [r for r in records if r.get("kind") == "train"]
    evaluations = [r for r in records if r.get("kind") == "eval"]
    losses = _series(train, lambda r: r.get("losses") or {})
    total = _series(train, lambda r: {"loss": sum(v for v in (r.get("losses") or {}).values() if _is_number(v))})
    panels: dict[str, tuple[Series, bool]] = {
        "Total loss": (total if losses else {}, True),
        "Losses": (losses if len(losses) > 1 else {}, True),
        "Metrics": (_series(evaluations, lambda r: _defined(r.get("metrics") or {})), False),
        "Learning rate": (_series(train, lambda r: {"lr": r.get("lr")}), False),
        "Images per second": (_series(train, lambda r: {"images/s": r.get("images_per_s")}), False),
    }
    return {title: _svg(series, may_be_log) for title, (series, may_be_log) in panels.items() if series}


def plot_lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str = "step", y_label: str = ""
) -> bytes:
    """Any lines in the style of :func:`plot_curves`.

    Args:
        series: name of a line to its x and y values, finite numbers.
        x_label, y_label: of the axes.

    Returns:
        SVG, as from :func:`plot_curves`.

    Raises:
        ValueError: no line, or one without points.
    """
    if not series or not all(len(x) == len(y) > 0 for x, y in series.values()):
        raise ValueError("give at least one line, and as many y as x values")
    lines = {name: (list(x), list(y)) for name, (x, y) in series.items()}
    return _svg(lines, False, x_label, y_label)


def _defined(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if value != -1}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _series(records: Sequence[Mapping[str, Any]], values: Any) -> Series:
    series: Series = {}
    for index, record in enumerate(records):
        for name, value in values(record).items():
            if _is_number(value):
                x, y = series.setdefault(name, ([], []))
                x.append(record.get("step", index))
                y.append(value)
    return series


def _thin(values: Sequence[float]) -> np.ndarray:
    """At most ``_POINTS`` values, each the mean of a stretch."""
    array = np.asarray(values, dtype=np.float64)
    return np.array([part.mean() for part in np.array_split(array, min(len(array), _POINTS))])


def _svg(series: Series, may_be_log: bool, x_label: str = "step", y_label: str = "") -> bytes:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for (name, (x, y)), colour in zip(series.items(), _LINES * (len(series) // len(_LINES) + 1)):
        few = len(x) <= 30
        axes.plot(_thin(x), _thin(y), color=colour, linewidth=1.6, marker="o" if few else "", markersize=3, label=name)
    lowest, highest = min(min(y) for _, y in series.values()), max(max(y) for _, y in series.values())
    if may_be_log and lowest > 0 and highest / lowest > 50:
        axes.set_yscale("log")
    axes.set_xlabel(x_label, color=_INK, fontsize=9)
    axes.set_ylabel(y_label, color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=8, length=3)
    axes.grid(color=_INK, alpha=0.15, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.spines[["left", "bottom"]].set_alpha(0.4)
    if len(series) > 1:
        columns = 2 if len(series) > 4 else len(series)
        figure.legend(
            loc="outside lower center", ncols=columns, fontsize=8, labelcolor=_INK,
            frameon=False,
        )  # fmt: skip
        figure.set_size_inches(_SIZE[0], _SIZE[1] + 0.16 * math.ceil(len(series) / columns))
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "vireo"}):  # the same log gives the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(_INK, "currentColor")
    return drawing.replace("<defs>", f"{_STYLE}<defs>", 1).encode()
