"""Drawings of architectures: a line of nodes for each stage, an arc for each connection.

Connections that are interleaved are the arcs that cross (section 3.4); they have a colour of their own.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.errors import InputError

from .genotype import Edge, Genotype
from .schedule import ActiveNodes, interleaved_pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EdgeWeights = Sequence[Mapping[int, Mapping[int, float]]]
"""Of each stage: node to source to weight in [0, 1]."""

Entry = tuple[str, dict[str, Any]]
"""Of a legend: its text and its stroke."""

FORMATS = (".svg", ".png")
_INK, _FREE, _INTERLEAVED, _ACTIVE, _FAINT = "#30343b", "#2b6cb0", "#d9480f", "#ffd43b", "#d5dae0"
_STYLES: dict[str, Any] = {"conv3 + skip": "solid", "conv3": (0, (5, 1.5)), "skip": (0, (1, 1.2))}
_OTHER_STYLES: list[Any] = [(0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (2, 3))]
_MARK = {"marker": "o", "markevery": [1], "markersize": 9, "markerfacecolor": _ACTIVE, "color": _INK, "linestyle": ""}
_COLOURS = {"not active": _FAINT, "not interleaved": _FREE, "interleaved": _INTERLEAVED}
"""Of edges, by layer: the later ones lie above."""
_NODE = 190  # its area in square points: two digits stay clear of the ring
_NARROWEST = 9  # nodes a drawing has room for at least
_INCH = 0.42  # between two nodes
_RISE = 0.4  # height of an arc by its span


def draw_genotype(
    genotype: Genotype,
    title: str = "",
    *,
    edge_weights: EdgeWeights | None = None,
    active: ActiveNodes | None = None,
) -> str:
    """The drawing as SVG. The same arguments give the same text.

    Args:
        genotype: drawn with one row for each stage. A number without node is a dot.
        title: stands above.
        edge_weights: as :meth:`~if_nas.search_network.SearchNetwork.edge_weights` gives them. Strokes are then as wide
            as their edges weigh.
        active: of each stage the numbers of active nodes. They are marked, and what is not alive then is faint: of a
            node that is not active, all but the edge from its last source.

    Raises:
        InputError: weights or active nodes of another number of stages, or an edge without weight.
    """
    figure = _figure(genotype, title, edge_weights, active)
    svg = _rendered(figure, "svg").decode()
    return svg[svg.index("<svg") :]


def write_drawing(
    path: str | os.PathLike[str],
    genotype: Genotype,
    title: str = "",
    *,
    edge_weights: EdgeWeights | None = None,
    active: ActiveNodes | None = None,
) -> None:
    """Write the drawing to an ``.svg`` or ``.png`` file; the arguments are those of :func:`draw_genotype`.

    Raises:
        InputError: another ending, a folder that cannot be written to, or as :func:`draw_genotype`.
    """
    from vireo.engine.folder import require_writable, write_atomically

    path = Path(path)
    require_format(path)
    content = _rendered(_figure(genotype, title, edge_weights, active), path.suffix[1:].lower())
    require_writable(path.parent, "--output")
    write_atomically(path, lambda file: file.write(content))


def require_format(path: Path) -> None:
    """Check the ending of a drawing's file.

    Raises:
        InputError: it is neither ``.svg`` nor ``.png``.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError("drawings are .svg or .png", str(path), "give it one of these endings")


def _rendered(figure: Figure, form: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    metadata: Any = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "if_nas", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=form, dpi=110, metadata=metadata)
    return buffer.getvalue()


def _figure(genotype: Genotype, title: str, edge_weights: EdgeWeights | None, active: ActiveNodes | None) -> Figure:
    from matplotlib.figure import Figure

    for name, given in (("edge weights", edge_weights), ("active nodes", active)):
        if given is not None and len(given) != len(genotype.stages):
            what = f"{name} of {len(given)} stages for a genotype of {len(genotype.stages)}"
            raise InputError(what, "drawing", "give those of the same network")
    labels = _labels(genotype)
    base, bottoms = 0.0, []
    for stage in range(len(genotype.stages)):
        base -= max(1.0, _RISE * max(node - source for source, node in genotype.edges(stage))) + 1.1
        bottoms.append(base)
    right = max(_NARROWEST, *map(max, genotype.stages)) + 0.7
    used = {label for stage_labels in labels for label in stage_labels.values()}
    order = sorted(used, key=lambda label: [*_STYLES, label].index(label))
    styles = dict(zip([label for label in order if label not in _STYLES], cycle(_OTHER_STYLES))) | _STYLES
    strokes = [(label, {"color": _INK, "linestyle": styles[label]}) for label in order]
    alive = [_alive(genotype, stage, None if active is None else active[stage]) for stage in range(len(labels))]
    kinds = [_kinds(labels[stage], edges) for stage, edges in enumerate(alive)]
    keys: list[Entry] = [
        (kind, {"color": colour, "linewidth": 2.5})
        for kind, colour in _COLOURS.items()
        if any(kind in found.values() for found in kinds)
    ]
    entries = _legend_rows([strokes, [*keys, ("active", _MARK)] if active is not None else keys], right)
    lowest, highest = base - 0.9 - 0.8 * len(entries), 0.7 if title else -0.3
    figure = Figure(figsize=((right + 1.9) * _INCH, (highest - lowest) * _INCH))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.9, right), ylim=(lowest, highest))
    axes.set_axis_off()
    axes.text(-1.6, highest - 0.7, title, fontsize=12, fontweight="bold", color=_INK, va="center")
    for stage, bottom in enumerate(bottoms):
        weights = None if edge_weights is None else edge_weights[stage]
        _draw_edges(axes, labels[stage], styles, kinds[stage], stage, bottom, weights)
        _draw_nodes(axes, genotype, stage, bottom, () if active is None else active[stage])
    _draw_legend(axes, base - 1.1, entries)
    return figure


def _labels(genotype: Genotype) -> list[dict[Edge, str]]:
    """Of each stage: edge to its operators, e.g. ``conv3 + skip``; one that stands twice as ``2 x conv3``."""
    labels = []
    for stage in genotype.stages:
        operators: dict[Edge, Counter[str]] = {}
        for node, inputs in stage.items():
            for op, source in inputs:
                operators.setdefault((source, node), Counter())[op] += 1
        labels.append(
            {
                edge: " + ".join(op if count == 1 else f"{count} x {op}" for op, count in sorted(counts.items()))
                for edge, counts in operators.items()
            }
        )
    return labels


def _alive(genotype: Genotype, stage: int, active: Sequence[int] | None) -> list[Edge]:
    """The edges of a stage that run while the nodes ``active`` are; all for None."""
    last = {node: source for source, node in genotype.edges(stage)}  # they ascend
    return [
        (source, node)
        for source, node in genotype.edges(stage)
        if active is None or node in active or source == last[node]
    ]


def _kinds(edges: Iterable[Edge], alive: Sequence[Edge]) -> dict[Edge, str]:
    """Of each edge its name in the legend."""
    interleaved = {edge for pair in interleaved_pairs(alive) for edge in pair}
    return {
        edge: "interleaved" if edge in interleaved else "not interleaved" if edge in alive else "not active"
        for edge in edges
    }


def _draw_edges(
    axes: Axes,
    labels: Mapping[Edge, str],
    styles: Mapping[str, Any],
    kinds: Mapping[Edge, str],
    stage: int,
    bottom: float,
    weights: Mapping[int, Mapping[int, float]] | None,
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    for edge, kind in kinds.items():
        source, node = edge
        if node - source == 1:
            curve = Curve([(source, bottom), (node, bottom)])
        else:  # curves of the same shape: they cross only where the edges are interleaved
            top = bottom + _RISE * (node - source) * 4 / 3
            corners = [(source, bottom), (source, top), (node, top), (node, bottom)]
            curve = Curve(corners, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
        width = 1.3 if weights is None else 0.25 + 3 * _weight(weights, edge, stage)
        style, layer = styles[labels[edge]], list(_COLOURS).index(kind)
        axes.add_patch(PathPatch(curve, fill=False, edgecolor=_COLOURS[kind], lw=width, linestyle=style, zorder=layer))


def _weight(weights: Mapping[int, Mapping[int, float]], edge: Edge, stage: int) -> float:
    source, node = edge
    if source not in weights.get(node, {}):
        where = f"drawing, stage {stage + 1}"
        raise InputError(f"the edge from {source} to {node} has no weight", where, "give those of the same network")
    return weights[node][source]


def _draw_nodes(axes: Axes, genotype: Genotype, stage: int, bottom: float, active: Sequence[int]) -> None:
    nodes = genotype.stages[stage]
    last = max(nodes)
    axes.text(-1.75, bottom, f"{stage + 1}", fontsize=12, fontweight="bold", color=_INK, va="center")
    axes.scatter([0], [bottom], s=_NODE, marker="s", color="white", edgecolors=_INK, linewidths=1.2, zorder=4)
    axes.text(0, bottom, "in", fontsize=6.5, color=_INK, ha="center", va="center_baseline", zorder=5)
    missing = [number for number in range(1, last) if number not in nodes]
    axes.scatter(missing, [bottom] * len(missing), s=5, color="#adb5bd", zorder=4)
    fills = [_ACTIVE if node in active else "white" for node in nodes]
    widths = [2.4 if node == last else 1.2 for node in nodes]
    axes.scatter(list(nodes), [bottom] * len(nodes), s=_NODE, c=fills, edgecolors=_INK, linewidths=widths, zorder=4)
    for node in nodes:
        axes.text(node, bottom, str(node), fontsize=7, color=_INK, ha="center", va="center_baseline", zorder=5)


def _legend_rows(groups: Sequence[Sequence[Entry]], right: float) -> list[list[tuple[float, Entry]]]:
    """Where the entries of a legend stand: one row for a group, or more where it is longer than the drawing."""
    rows: list[list[tuple[float, Entry]]] = []
    for group in groups:
        place = right
        for entry in group:
            width = 1.9 + 0.21 * len(entry[0])
            if place + width > right:
                rows.append([])
                place = -1.7
            rows[-1].append((place, entry))
            place += width
    return rows


def _draw_legend(axes: Axes, top: float, rows: Sequence[Sequence[tuple[float, Entry]]]) -> None:
    for row, entries in enumerate(rows):
        height = top - 0.8 * row
        for place, (name, stroke) in entries:
            axes.plot([place, place + 0.5, place + 1], [height] * 3, **stroke)
            axes.text(place + 1.2, height, name, fontsize=9, color=_INK, va="center_baseline")
