"""``make new-paper``: what it makes works at once, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "small_paper"

pytestmark = pytest.mark.skipif(
    not (ROOT / "tools").is_dir(), reason="the shared library is tested outside its repository"
)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, to be left as it is."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folder = tmp_path_factory.mktemp("tracked")
    for name in listing.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def clone(tracked: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(tracked, tmp_path, dirs_exist_ok=True))


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """``python command`` in ``folder``, where its own packages come before the installed ones."""
    sources = os.pathsep.join(str(path) for path in [folder / "shared" / "src", *folder.glob("packages/*/src")])
    environment = {**os.environ, "PYTHONPATH": sources, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_new_package_passes_lint_and_tests_at_once(clone: Path) -> None:
    for tool in ("ruff", "mypy"):
        if util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = run(clone, "tools/new_paper.py", NAME)
    assert made.returncode == 0, made.stderr
    rules = f"{NAME} or readme_lists or make_selects"
    for command in (
        ("ruff", "check", "--no-cache", f"packages/{NAME}"),
        ("ruff", "format", "--check", "--no-cache", f"packages/{NAME}"),
        ("mypy", "--follow-imports=silent", f"packages/{NAME}"),
        ("pytest", "-p", "no:cacheprovider", f"packages/{NAME}/tests", "shared/tests/test_repository.py", "-k", rules),
    ):
        done = run(clone, "-m", *command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_only_the_new_files_and_two_lists_change(clone: Path) -> None:
    before = contents(clone)
    assert run(clone, "tools/new_paper.py", NAME).returncode == 0
    after = contents(clone)
    assert {name for name in before if after.get(name) != before[name]} == {"README.md", "pyproject.toml"}
    added = sorted(after.keys() - before.keys())
    assert all(name.startswith((f"packages/{NAME}/", f".github/workflows/{NAME}.yml")) for name in added)
    assert not [name for name in added if b"paper_name" in after[name] or b"paper-name" in after[name]]

    rows = [text.decode().splitlines() for text in (before["README.md"], after["README.md"])]
    (row,) = (line for line in rows[1] if line not in rows[0])
    assert row.startswith(f"| [`{NAME}`](packages/{NAME}) |")
    assert [line for line in rows[1] if line != row] == rows[0]
    old, new = (tomllib.loads(text.decode())["tool"] for text in (before["pyproject.toml"], after["pyproject.toml"]))
    for section, key, entry in (
        (("mypy",), "mypy_path", f"packages/{NAME}/src"),
        (("pytest", "ini_options"), "pythonpath", f"packages/{NAME}/tests"),
        (("coverage", "run"), "source_pkgs", NAME),
    ):
        values = old, new
        for part in section:
            values = values[0][part], values[1][part]
        assert sorted([*values[0].pop(key), entry]) == values[1].pop(key)
    assert old == new


def test_a_planned_paper_keeps_its_row(clone: Path) -> None:
    readme = clone / "README.md"
    planned = f"| `{NAME}` | Some Title | CVPR | a task | planned |\n"
    text = readme.read_text()
    first = text.index("| [`")
    readme.write_text(text[:first] + planned + text[first:])
    assert run(clone, "tools/new_paper.py", NAME).returncode == 0
    assert (
        readme.read_text()
        == text[:first] + f"| [`{NAME}`](packages/{NAME}) | Some Title | CVPR | a task | begun |\n" + text[first:]
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no name"),
        ("two words", "no name"),
        ("Upper", "no name"),
        ("a-b", "no name"),
        ("1st", "no name"),
        ("../up", "no name"),
        ("class", "word of Python"),
        ("match", "word of Python"),
        ("json", "standard library"),
        ("torch", "installed"),
        ("pytest_timeout", "installed"),
        ("shared", "make"),
        ("fgc", "exists"),
    ],
)
def test_unusable_names_are_refused_and_nothing_is_written(name: str, reason: str, tracked: Path) -> None:
    before = contents(tracked)
    refused = run(tracked, "tools/new_paper.py", name)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: NAME={name}: ")
    assert reason in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert contents(tracked) == before
