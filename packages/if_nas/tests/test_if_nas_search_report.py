"""The page of a search: curves over epochs, the drawing, and the cost."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from if_nas_searches import search

from if_nas.search_report import search_curves


def record(epoch: int, **metrics: Any) -> dict[str, Any]:
    return {"kind": "eval", "epoch": epoch, "step": epoch, "metrics": metrics}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], str, str]]:
    """What is drawn: lines, and names of the axes."""
    found: list[tuple[dict[str, Any], str, str]] = []

    def plot(series: dict[str, Any], x_label: str, y_label: str) -> bytes:
        found.append((series, x_label, y_label))
        return b"<svg/>"

    monkeypatch.setattr("if_nas.search_report.plot_lines", plot)
    return found


def test_curves(drawn: list[tuple[dict[str, Any], str, str]]) -> None:
    """Epochs count from 1; what was not measured after an epoch is left out."""
    common = {"preference": 0.1, "depth": 9, "cost": {"macs": 2_000_000}}
    records = [
        {"kind": "train", "epoch": 0},
        record(0, edge_weight={"1": 0.5, "2": 0.4}, **common),
        record(1, edge_weight={"1": 0.6, "2": 0.3}, **common, top1=50.0),
    ]
    titles = list(search_curves(records))
    assert titles[0] == "Mean edge weight by distance"
    assert drawn[0] == ({"1": ([1, 2], [0.5, 0.6]), "2": ([1, 2], [0.4, 0.3])}, "epoch", "weight")
    assert [next(iter(series.values())) for series, _, _ in drawn[1:]] == [
        ([1, 2], [0.1, 0.1]),
        ([1, 2], [9, 9]),
        ([1, 2], [2.0, 2.0]),
        ([2], [50.0]),
    ]


def test_no_curve_without_points(drawn: list[tuple[dict[str, Any], str, str]]) -> None:
    """A space of direct predecessors has no other distances, hence no preference."""
    only = record(0, edge_weight={"1": 0.5}, preference=None, depth=9, cost={"macs": 1})
    assert "Weight at distance 1 minus that of the others" not in search_curves([only])
    assert search_curves([]) == {}
    assert len(drawn) == 3


def test_page(tmp_path: Path) -> None:
    folder = search(tmp_path, "epochs=1", "+paper_metrics.depth=46")
    page = (folder / "report.html").read_text()
    for text in ("Mean edge weight by distance", "Longest path", "Multiply-adds", "cpu_hours", "46", "preference"):
        assert text in page
    assert "<svg" in (folder / "network.svg").read_text()[:500]
    assert b64encode((folder / "network.svg").read_bytes()).decode() in page  # as sharp as it is
