"""Drawings: what is in them, and how it looks to a program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from if_nas.drawing import draw_genotype, write_drawing
from if_nas.genotype import Connection, Genotype
from if_nas.published import GENOTYPES
from if_nas.schedule import InterleavingFreeSchedule
from if_nas.space import LChainSpace
from vireo.errors import InputError

SPACE = LChainSpace((9,), 8)
WEIGHTS: Any = [{node: dict.fromkeys(SPACE.sources(0, node), 0.5) for node in range(1, 10)}]


def strokes(svg: str, colour: str) -> list[str]:
    """Curves of a colour, without the lines of the legend."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg)
    return [d for d, style in paths if f"stroke: {colour}" in style and "fill: none" in style]


def test_every_connection_and_node_is_drawn() -> None:
    genotype = GENOTYPES["if_l8"]
    svg = draw_genotype(genotype, "if_l8 & co")
    ElementTree.fromstring(svg)
    assert "if_l8 &amp; co" in svg
    drawn = len(strokes(svg, "#2b6cb0")) + len(strokes(svg, "#d9480f")) - 2  # of the legend
    assert drawn == sum(len(genotype.edges(stage)) for stage in range(3))
    assert {">conv3 + skip<", ">conv3<", ">interleaved<", ">20<"} <= set(re.findall(r">[^<>\n]+<", svg))
    assert svg == draw_genotype(genotype, "if_l8 & co")


def test_interleaved_connections_have_their_colour() -> None:
    chain = [Connection("conv3", 0)], [Connection("conv3", 1)], [Connection("conv3", 2)]
    nested = Genotype(({1: (*chain[0],), 2: (*chain[1],), 3: (*chain[2], Connection("skip", 0))},))
    crossing = Genotype(
        ({1: (*chain[0],), 2: (*chain[1], Connection("skip", 0)), 3: (*chain[2], Connection("skip", 1))},)
    )
    assert strokes(draw_genotype(nested), "#d9480f") == []  # nor does the legend name them
    assert ">interleaved<" not in draw_genotype(nested)
    assert len(strokes(draw_genotype(crossing), "#d9480f")) == 3


def test_a_phase_has_no_interleaved_connections() -> None:
    active = InterleavingFreeSchedule(8).active(7, SPACE.nodes)
    assert len(strokes(draw_genotype(SPACE.full()), "#d9480f")) > 10
    svg = draw_genotype(SPACE.full(), active=active)
    assert strokes(svg, "#d9480f") == []
    assert len(strokes(svg, "#2b6cb0")) == 9 + 7 + 1
    assert ">not active<" in svg
    assert ">not active<" not in draw_genotype(SPACE.full())
    assert ">active<" in svg


def test_weights_are_widths() -> None:
    weights = [{node: dict(sources) for node, sources in WEIGHTS[0].items()}]
    weights[0][9][8] = 1.0
    svg = draw_genotype(SPACE.full(), edge_weights=weights)
    assert svg.count("stroke-width: 3.25") == 1
    assert svg.count("stroke-width: 1.75") == len(SPACE.edges(0)) - 1


@pytest.mark.parametrize(("ending", "form"), [("svg", None), ("png", "PNG"), ("PNG", "PNG")])
def test_files(ending: str, form: str | None, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"found.{ending}"
    write_drawing(path, GENOTYPES["geno_cosine_similarity2"])
    if form is None:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    else:
        with Image.open(path) as image:
            assert image.format == form
            assert min(image.size) > 200


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"drawings are \.svg or \.png"):
        write_drawing(tmp_path / "found.gif", SPACE.full())
    with pytest.raises(InputError, match="edge weights of 1 stages for a genotype of 3"):
        draw_genotype(GENOTYPES["if_l8"], edge_weights=WEIGHTS)
    with pytest.raises(InputError, match="active nodes of 2 stages"):
        draw_genotype(SPACE.full(), active=((1,), (1,)))
    with pytest.raises(InputError, match="the edge from 0 to 1 has no weight"):
        draw_genotype(SPACE.full(), edge_weights=[{}])
