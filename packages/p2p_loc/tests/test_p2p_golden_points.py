"""Coarse points, pseudo boxes and semi-supervised flags against the reference numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from p2p_golden import close, load

from p2p_loc.coarse import coarse_points, fully_supervised
from p2p_loc.pseudo import class_sizes, pseudo_boxes

JOBS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "uniform_half": {"size_range": 0.5},
    "rg_0_0.25": {"dist": "rg"},
    "rg_0_0.167": {"dist": "rg", "sigma": 0.167},
    "rg_-0.26_0.125": {"dist": "rg", "mu": -0.26, "sigma": 0.125},
    "rg_0_1": {"dist": "rg", "sigma": 1.0},
}
MASK_JOBS: dict[str, dict[str, Any]] = {
    "mask_uniform": {},
    "mask_rg": {"dist": "rg"},
    "mask_center": {"dist": "center_gaussian", "size_range": 0.5},
}


class Recorder:
    """A generator that keeps what was drawn from it, call by call."""

    def __init__(self, seed: int) -> None:
        self.rng, self.draws = np.random.RandomState(seed), [np.zeros(0)]

    def _keep(self, drawn: np.ndarray) -> np.ndarray:
        self.draws.append(drawn.ravel())
        return drawn

    def rand(self, *shape: int) -> np.ndarray:
        return self._keep(self.rng.rand(*shape))

    def randn(self, *shape: int) -> np.ndarray:
        return self._keep(self.rng.randn(*shape))

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
        return self._keep(self.rng.uniform(low, high, size))


@pytest.mark.parametrize("job", JOBS)
def test_points_in_boxes(job: str) -> None:
    case = load("coarse")
    generator = Recorder(int(case[f"{job}_seed"]))
    close(coarse_points(case["bbox"], rng=generator, **JOBS[job]), case[f"{job}_point"], 1e-9)
    close(np.concatenate(generator.draws), case[f"{job}_draws"], 0.0)
    assert [len(call) for call in generator.draws[1:]] == case[f"{job}_ndraws"].tolist()
    close(coarse_points(case["bbox"], draws=case[f"{job}_draws"], **JOBS[job]), case[f"{job}_point"], 1e-9)


@pytest.mark.parametrize("job", MASK_JOBS)
def test_points_on_masks(job: str) -> None:
    case = load("coarse")
    masks = [[polygon.tolist()] for polygon in case["poly"]]
    generator = Recorder(int(case[f"{job}_seed"]))
    points = coarse_points(case["poly_bbox"], masks=masks, rng=generator, **MASK_JOBS[job])
    close(points, case[f"{job}_point"], 1e-9)
    close(np.concatenate(generator.draws), case[f"{job}_draws"], 0.0)
    close(coarse_points(case["poly_bbox"], masks=masks, draws=case[f"{job}_draws"], **MASK_JOBS[job]), points, 0.0)


def test_fixed_points() -> None:
    case = load("coarse")
    points = coarse_points(case["bbox"], "fixed", at=(0.5, 0.2))
    close(points.round(3), case["fixed_0.5_0.2_point"], 1e-9)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (3, 5)])
def test_pseudo_boxes(size: tuple[int, int]) -> None:
    case = load("pseudo_box")
    boxes, kept = pseudo_boxes(case["points"], size, case["image_wh"])
    name = f"{size[0]}x{size[1]}"
    close(np.flatnonzero(kept), case[f"id_{name}"], 0.0)
    close(boxes[kept], case[f"bbox_{name}"], 1e-9)


@pytest.mark.parametrize("mode", ["mean_size", "mean_wh"])
def test_class_sizes(mode: Any) -> None:
    case = load("pseudo_box")
    sizes = class_sizes(case["true_bbox"], case["cat"], mode)
    assert list(sizes) == [1, 2, 3]
    close(list(sizes.values()), case[mode], 1e-9)


def test_semi_supervised_flags() -> None:
    case = load("refine")
    full = case["semi0.4_is_fully"]
    found = fully_supervised(len(full), 0.4, np.random.RandomState(int(case["semi0.4_seed"])))
    close(found, full, 0.0)
