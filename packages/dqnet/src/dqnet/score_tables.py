"""Scores of several data sets as the table of a paper: on the console, as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from .metrics import NAMES

COLUMNS = (*NAMES, "IoU")
DIGITS = 3  # as papers have them

Scores = Mapping[str, Mapping[str, float]]  # metrics by data set


def show(scores: Scores, images: Mapping[str, int], title: str | None = None) -> None:
    """Print a row for each data set, which has so many images."""
    from rich.console import Console
    from rich.table import Table

    table = Table("set", "images", *COLUMNS, title=title)
    for name, row in scores.items():
        table.add_row(name, str(images[name]), *_cells(row))
    # metrics need their width where there is no terminal, as in a log
    Console(width=None if Console().is_terminal else 200).print(table)


def as_csv(scores: Scores, images: Mapping[str, int]) -> str:
    """One line for each data set, in full precision."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["set", "images", *COLUMNS])
    for name, row in scores.items():
        table.writerow([name, images[name], *(row[column] for column in COLUMNS)])
    return text.getvalue()


def as_latex(scores: Scores) -> str:
    """A ``tabular`` in the style of the ``booktabs`` package, rounded."""
    head = " & ".join(["", *COLUMNS])
    rows = [" & ".join([_escaped(name), *_cells(row)]) + r" \\" for name, row in scores.items()]
    lines = [rf"\begin{{tabular}}{{l{'c' * len(COLUMNS)}}}", r"\toprule", head + r" \\", r"\midrule", *rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cells(row: Mapping[str, float]) -> list[str]:
    return [f"{row[column]:.{DIGITS}f}" for column in COLUMNS]


def _escaped(text: str) -> str:
    return "".join(rf"\{letter}" if letter in "&%$#_{}" else letter for letter in text)
