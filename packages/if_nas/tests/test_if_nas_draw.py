"""``if-nas-draw`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from if_nas.micro_genotype import MICRO_GENOTYPES
from vireo.testing import call_script


def draw(*arguments: object) -> str:
    outcome = call_script("if_nas.draw", *arguments)
    assert outcome.status == 0, outcome.err
    return outcome.out


def test_names_and_spaces(tmp_path: Path) -> None:
    path = tmp_path / "found.svg"
    assert draw("if_l8_keep1", "--output", path, "--title", "mine") == f"written to {path}\n"
    assert ">mine<" in path.read_text()
    draw("--nodes", 9, 9, "--length", 4, "--period", 4, "--phase", 3, "--output", path)
    assert ">active<" in path.read_text()


def test_files_of_cells_cannot_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "cells.json").write_text(json.dumps(MICRO_GENOTYPES["darts_v1"].to_dict()))
    assert "its cells cannot be drawn" in call_script("if_nas.draw", tmp_path / "cells.json").mistake()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one thing is drawn"),
        (["if_l8", "--nodes", 3], "one thing is drawn"),
        (["if_l9"], "if_l9: is no genotype"),
        ([""], "an empty name: is no genotype"),
        (["darts_v2"], "darts_v2: its cells cannot be drawn"),
        (["if_l8", "--weights"], "--weights: needs a search"),
        (["if_l8", "--epoch", 2], "--epoch: needs a search"),
        (["if_l8", "--period", 2], "--period: is that of a phase"),
        (["if_l8", "--phase", 1], "--phase, --length: an architecture does not say the longest connection"),
        (["if_l8", "--length", 4], "--phase, --length: an architecture does not say the longest connection"),
        (["if_l8", "--phase", 9, "--length", 8], "there is no phase 9 in a period of 9"),
        (["if_l8", "--phase", 0, "--length", 8, "--period", 0], "period 0 is not positive"),
        (["--nodes", 0], "are no stages"),
        (["--nodes", 4, "--length", 0], "length 0"),
        (["--run", "nowhere"], "nowhere: holds no config.yaml. give the folder of a search with --run"),
        (["--run", "nowhere", "--length", 3], "--length: is that of the search"),
        (["--run", "nowhere", "--epoch", 0], "epochs count from 1"),
        (["if_l8", "--output", "found.gif"], "drawings are .svg or .png"),
    ],
)
def test_mistakes(arguments: list[object], message: str) -> None:
    assert message in call_script("if_nas.draw", *arguments).mistake()
