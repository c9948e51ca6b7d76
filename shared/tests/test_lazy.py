"""Names that a package imports when they are first asked for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

PACKAGE = '''"""A package."""
from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:
    from lazy_sample.second import two as two

    from .first import one as one
    from .first import other as renamed

__version__ = "1"
__all__, __getattr__, __dir__ = exports(__name__, __file__)
'''


def test_a_name_is_imported_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lazy_sample"
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "first.py").write_text("one, other = 1, 10\n")
    (folder / "second.py").write_text("two = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("lazy_sample")
    assert package.__all__ == ["two", "one", "renamed"]
    assert {"__version__", "one", "renamed", "two"} <= set(dir(package))
    assert not {"lazy_sample.first", "lazy_sample.second"} & set(sys.modules)
    assert package.one == 1
    assert "lazy_sample.second" not in sys.modules
    assert (package.renamed, package.two) == (10, 2)
    with pytest.raises(AttributeError, match="module 'lazy_sample' has no attribute 'three'"):
        package.three  # noqa: B018
    with pytest.raises(ImportError, match="three"):
        from lazy_sample import three  # noqa: F401


@pytest.mark.parametrize("name", ["vireo.data", "vireo.engine"])
def test_every_name_has_a_home(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__
    assert all(getattr(package, entry) is not None for entry in package.__all__)
