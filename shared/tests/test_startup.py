"""Starting is quick: what an import costs beside torch's own, and what neither it nor ``--help`` may bring along."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAPERS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
LIBRARY = ["vireo", *(f"vireo.{part}" for part in ("backbones", "data", "engine", "errors", "evaluation", "report"))]
LIMIT_S = 0.3
HEAVY = ["detectron2", "wandb", "matplotlib"]  # only for those who ask for them

IMPORT = """
import json, multiprocessing, sys, time, torch

def measure(module):
    start = time.perf_counter()
    __import__(module)
    return module, time.perf_counter() - start, sorted({heavy} & set(sys.modules))

with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:  # each beside torch and nothing else
    print(json.dumps(pool.map(measure, 3 * {modules}, chunksize=1)))
"""
HELP = """
import json, sys
from importlib import import_module
sys.argv = [{script!r}, "--help"]
try:
    import_module({module!r}).{function}()
except SystemExit as end:
    status = end.code or 0
else:
    status = 0
print(json.dumps([status, sorted({heavy} & set(sys.modules))]))
"""


def last_line(code: str, **names: Any) -> Any:
    """What a new interpreter prints last, from JSON."""
    command = [sys.executable, "-c", code.format(**names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def console_scripts() -> list[tuple[str, str]]:
    """``(script, module:function)`` of all packages."""
    projects = [tomllib.loads((ROOT / "packages" / paper / "pyproject.toml").read_text()) for paper in PAPERS]
    return [(name, target) for project in projects for name, target in project["project"]["scripts"].items()]


@pytest.fixture(scope="module")
def imports() -> list[tuple[str, float, list[str]]]:
    """``(module, seconds, heavy modules it brought along)``, three times for every module."""
    modules = [module for module in [*LIBRARY, *PAPERS] if util.find_spec(module.partition(".")[0]) is not None]
    return [(module, seconds, heavy) for module, seconds, heavy in last_line(IMPORT, modules=modules, heavy=set(HEAVY))]


@pytest.mark.parametrize("module", [*LIBRARY, *PAPERS])
def test_importing_costs_little_beside_torch(imports: list[tuple[str, float, list[str]]], module: str) -> None:
    measured = [(seconds, heavy) for name, seconds, heavy in imports if name == module]
    if not measured:
        pytest.skip("the package is not installed")
    seconds, heavy = min(measured)  # another process may have had the core in the other two
    assert heavy == []
    assert seconds <= LIMIT_S


@pytest.mark.parametrize(("script", "target"), console_scripts())
def test_help_ends_well_and_waits_for_nothing_heavy(script: str, target: str) -> None:
    module, _, function = target.partition(":")
    if util.find_spec(module.partition(".")[0]) is None:
        pytest.skip("the package is not installed")
    names = {"script": script, "module": module, "function": function, "heavy": {*HEAVY, "torch"}}
    assert last_line(HELP, **names) == [0, []]
