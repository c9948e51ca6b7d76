"""A new paper: a package that trains, evaluates and passes its tests, to be filled with the method.

    make new-paper NAME=foo

Copies ``templates/paper`` with the name put in, and adds the package to the lists of ``pyproject.toml`` and to the
table of ``README.md``. A name that cannot be used is refused before anything is written.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "paper_name"
WORDS_OF_MAKE = ("all", "shared")  # PAPER=... means something else by them
LISTS = {
    "source_pkgs": "{}",
    "mypy_path": "packages/{}/src",
    "pythonpath": "packages/{}/tests",
}


def fault(name: str) -> str | None:
    """Why ``name`` cannot be the name of a package here; None if it can."""
    if not re.fullmatch(r"[a-z](_?[a-z0-9])*", name) or len(name) > 30:
        return "is no name for a package: use lower-case letters, digits and single underscores, 30 at most"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return "is a word of Python"
    if name in WORDS_OF_MAKE:
        return "is taken by make"
    if (ROOT / "packages" / name).exists():
        return "exists already"
    if name in sys.stdlib_module_names:
        return "is a module of Python's standard library"
    if util.find_spec(name) is not None or list(metadata.distributions(name=name)):
        return "is an installed package, which it would hide"
    return None


def changes(name: str) -> dict[Path, str]:
    """The content of every file that a package ``name`` adds or alters, by its path."""
    template = ROOT / "templates" / "paper"
    files = {}
    for source in sorted(path for path in template.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        target = ROOT / str(source.relative_to(template)).replace(PLACEHOLDER, name)
        text = source.read_text().replace(PLACEHOLDER, name)
        files[target] = text.replace(PLACEHOLDER.replace("_", "-"), name.replace("_", "-"))
    paper = min(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
    workflows = ROOT / ".github" / "workflows"
    files[workflows / f"{name}.yml"] = (workflows / f"{paper}.yml").read_text().replace(paper, name)
    settings, readme = ROOT / "pyproject.toml", ROOT / "README.md"
    text = settings.read_text()
    for key, form in LISTS.items():
        text = with_entry(text, key, form.format(name))
    return {**files, settings: text, readme: with_row(readme.read_text(), name)}


def with_entry(settings: str, key: str, entry: str) -> str:
    """``settings`` (TOML) with ``entry`` in its place in the list ``key``, one entry a line."""
    match = re.search(rf"^{key} = \[(.*?)\]", settings, re.MULTILINE | re.DOTALL)
    assert match is not None, f"pyproject.toml has no list {key}"
    entries = sorted({*re.findall(r'"(.+?)"', match[1]), entry})
    lines = "".join(f'    "{value}",\n' for value in entries)
    return f"{settings[: match.start()]}{key} = [\n{lines}]{settings[match.end() :]}"


def with_row(readme: str, name: str) -> str:
    """``readme`` with the package in the table of papers: its planned row filled in, or a new one at the end."""
    link = f"| [`{name}`](packages/{name}) |"
    planned = re.compile(rf"^\| `{name}` \|(.*)\| planned \|$", re.MULTILINE)
    if planned.search(readme):
        return planned.sub(rf"{link}\1| begun |", readme)
    rows = list(re.finditer(r"^\| (?:\[`\w+`\]\(packages/\w+\)|`\w+`) \|.*\n", readme, re.MULTILINE))
    assert rows, "README.md has no table of papers"
    end = rows[-1].end()
    return f"{readme[:end]}{link} title, arXiv number | venue and year | task | begun |\n{readme[end:]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a name that is refused."""
    name = " ".join(sys.argv[1:] if argv is None else argv)
    reason = fault(name)
    if reason is not None:
        print(f"error: NAME={name}: {reason}. Choose another: make new-paper NAME=my_paper.", file=sys.stderr)
        return 2
    for path, text in changes(name).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"packages/{name} is there; now: make test PAPER={name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
