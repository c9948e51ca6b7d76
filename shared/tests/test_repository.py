"""The rules of the house that files can break: who imports whom, what every package has, what must not be tracked."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAPERS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
WORKFLOWS = ROOT / ".github" / "workflows"

pytestmark = pytest.mark.skipif(not PAPERS, reason="the shared library is tested outside its repository")


def imported_roots(file: Path) -> Iterator[str]:
    """First names of all absolute imports of a source file, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text(), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def project(paper: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "packages" / paper / "pyproject.toml").read_text())["project"]


def workflow(name: str) -> dict[Any, Any]:
    return yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("house", ["shared", *PAPERS])
def test_papers_import_vireo_and_never_each_other(house: str) -> None:
    folder = ROOT / ("shared" if house == "shared" else f"packages/{house}")
    files = sorted((folder / "src").rglob("*.py")) + sorted((folder / "tests").rglob("*.py"))
    forbidden = set(PAPERS) - {house}
    broken = {
        f"{file.relative_to(ROOT)} imports {', '.join(bad)}"
        for file in files
        if (bad := sorted(forbidden & set(imported_roots(file))))
    }
    assert files
    assert not broken


@pytest.mark.parametrize("paper", PAPERS)
def test_every_package_has_the_same_rooms(paper: str) -> None:
    folder = ROOT / "packages" / paper
    rooms = ("README.md", f"src/{paper}/__init__.py", f"src/{paper}/py.typed", f"src/{paper}/conf", "tests/golden")
    assert [room for room in rooms if not (folder / room).exists()] == []
    assert list((folder / "tests").glob("test_*.py"))
    metadata = project(paper)
    assert metadata["name"] == paper.replace("_", "-")
    assert "vireo @ {root:parent:parent:uri}/shared" in metadata["dependencies"]
    assert metadata["requires-python"] == ">=3.11"
    scripts = {script.rpartition("-")[2] for script in metadata["scripts"]}
    assert "eval" in scripts
    assert scripts & {"train", "pretrain"}


@pytest.mark.parametrize(("paper", "script"), [(paper, name) for paper in PAPERS for name in project(paper)["scripts"]])
def test_console_scripts_exist(paper: str, script: str) -> None:
    pytest.importorskip(paper, reason="the package is not installed")
    assert script.startswith((f"{paper.replace('_', '-')}-", f"{paper.partition('_')[0]}-"))  # or the first word of it
    module, _, function = project(paper)["scripts"][script].partition(":")
    assert module.split(".")[0] == paper
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", ["shared", *PAPERS])
def test_every_package_has_its_workflow(name: str) -> None:
    jobs = workflow(name)["jobs"]
    assert [job["with"]["paper"] for job in jobs.values() if job["uses"] == "./.github/workflows/paper.yml"] == [name]
    triggers = workflow(name)[True]  # YAML 1.1 reads the key `on` as a truth value
    for event in ("push", "pull_request"):
        wanted = {"shared/**"} | ({f"packages/{name}/**"} if name in PAPERS else set())
        assert wanted <= set(triggers[event]["paths"])


def test_actions_are_pinned_to_major_versions() -> None:
    used = [line for file in WORKFLOWS.glob("*.yml") for line in re.findall(r"uses:\s*(\S+)", file.read_text())]
    assert used
    assert [name for name in used if not re.fullmatch(r"\./\S+|[\w-]+/[\w/-]+@v\d+", name)] == []


def test_continuous_integration_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text()
    for command in ("make lint", "make test"):
        assert command in script
        assert command in readme
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_selects_what_paper_names() -> None:
    def dry_run(*arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PAPER")}
        command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=clean, timeout=30)

    tests = [f"packages/{paper}/tests" for paper in PAPERS]
    for arguments, expected in [
        ((), ["shared/tests", *tests]),
        (("PAPER=shared",), ["shared/tests"]),
        ((f"PAPER={PAPERS[0]}",), tests[:1]),
    ]:
        *_, pytest_line = dry_run("-n", "test", *arguments).stdout.splitlines()
        assert re.findall(r"\S+/tests", pytest_line) == expected
    refused = dry_run("-n", "test", "PAPER=nothing")
    assert refused.returncode == 2
    assert f"Choose from: {PAPERS[0]}" in refused.stderr
    listed = re.findall(r"^  ([a-z]+) ", dry_run("help").stdout, re.MULTILINE)
    assert {"setup", "demo", "test", "lint", "bench", "reproduce", "docs"} <= set(listed)


def test_readme_lists_every_package() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [paper for paper in PAPERS if f"(packages/{paper})" not in readme] == []


def test_links_between_documents_resolve() -> None:
    dead = []
    for file in tracked_files():
        if file.suffix == ".md":
            for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
                if not re.match(r"[a-z]+:|#", target) and not (file.parent / target.split("#")[0]).exists():
                    dead.append(f"{file.relative_to(ROOT)}: {target}")
    assert not dead


def test_no_machine_paths_or_package_indexes_are_tracked() -> None:
    pattern = re.compile(
        r"(?<![\w.])/(?:home|Users|root|work)/[\w.]"  # somebody's machine
        r"|\bpypi\.org|pythonhosted\.org|download\.pytorch\.org|--(?:extra-)?index-url|--find-link[s]"
    )
    found = []
    for file in tracked_files():
        data = file.read_bytes()
        if b"\0" not in data:  # text
            for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
                if pattern.search(line):
                    found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``benchmarks/tables.py``, imported as its neighbours import it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "tables", raising=False)
    return importlib.import_module("tables")


def test_numbers_in_readmes_come_from_the_result_files(tables: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_tables_are_made_from_result_files(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = {"commit": "0123456789abcdef", "hardware": "2 cores", "command": "python claim.py", "seeds": [0, 1]}
    clean, changed = ({**origin, "changed_since_commit": changed} for changed in (False, True))
    arms = [{"name": "plain", "metrics": {"AP50": [0.25, 0.35]}}, {"name": "ceiling", "metrics": {"IoU": [0.5]}}]
    claim = {"title": "Shapes", "columns": {"AP50": "AP50, clean boxes", "IoU": "IoU"}, "arms": arms, **clean}
    ratio = {"name": "evaluation", "against": "pycocotools", "value": 6.789, "target": 5.0, "bound": "min"}
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "ssd_det_shapes.json").write_text(json.dumps(claim))
    (results / "speed_coco_eval.json").write_text(json.dumps({"ratios": [ratio], **changed}))
    (tmp_path / "benchmarks" / "README.md").write_text("no table here\n")
    readme = tmp_path / "README.md"
    block = "<!-- table:{} -->\nold\n<!-- /table -->\n"
    readme.write_text(f"before\n{block.format('ssd_det')}between\n{block.format('speed')}after\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "RESULTS", results)

    assert tables.main(["--check"]) == 1
    assert "old" in readme.read_text()
    assert tables.main([]) == 0
    text = readme.read_text()
    assert "| plain | 0.300 ± 0.071 |  |\n| ceiling |  | 0.500 |\n" in text
    assert "Commit 012345678, 2 cores, seeds 0, 1, `python claim.py`." in text
    assert "| evaluation | pycocotools | 6.79 | ≥ 5 | 012345678+ | 2 cores |" in text
    assert [line for line in text.splitlines() if line in ("before", "between", "after")] == [
        "before",
        "between",
        "after",
    ]
    assert tables.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table:nowhere -->\n<!-- /table -->", "no table is called"),
        ("<!-- table:speed -->\nno end", "not closed"),
        ("<!-- table:speed -->\n<!-- table:speed -->\n<!-- /table -->", "not closed"),
    ],
)
def test_broken_table_blocks_are_reported(tables: ModuleType, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tables.render(text)
