"""What is said where detectron2 is absent, or there and incomplete."""

from __future__ import annotations

import pytest

from vireo.detection.detectron2 import explain_missing


@pytest.mark.parametrize("name", ["detectron2", "detectron2.config"])
def test_absent_detectron2_is_explained_with_its_installation(name: str) -> None:
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    with pytest.raises(
        ImportError, match=r"g2sd\.detectron2 needs detectron2, .* pip install .*no-build-isolation"
    ) as found:
        explain_missing("g2sd.detectron2", error)
    assert found.value.__cause__ is error


def test_what_detectron2_itself_misses_is_not_hidden() -> None:
    error = ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")
    with pytest.raises(ModuleNotFoundError, match="pkg_resources") as found:
        explain_missing("g2sd.detectron2", error)
    assert found.value is error
