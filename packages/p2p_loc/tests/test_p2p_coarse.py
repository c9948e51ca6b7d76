"""Coarse points and pseudo boxes: distributions, masks, the clip rule, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from p2p_loc.coarse import coarse_points, fully_supervised
from p2p_loc.pseudo import class_sizes, clip_boxes, keep_boxes, pseudo_boxes
from vireo.errors import InputError

BOXES = np.tile([10.0, 20.0, 8.0, 40.0], (20_000, 1))


def offsets(points: np.ndarray) -> np.ndarray:
    """As fractions of the sides of BOXES, from the centre."""
    return (points - [14, 40]) / [8, 40]


def test_uniform_points_fill_the_box() -> None:
    found = offsets(coarse_points(BOXES))
    assert np.abs(found).max() <= 0.5
    assert np.abs(found.mean(0)).max() < 0.01
    assert np.abs(found.std(0) - 12**-0.5).max() < 0.01
    half = offsets(coarse_points(BOXES, size_range=0.5))
    np.testing.assert_allclose(half, found / 2, atol=1e-12)


def test_rectified_gaussian_is_truncated_and_not_clipped() -> None:
    found = offsets(coarse_points(BOXES, "rg", mu=0.4, sigma=0.25))
    assert found.max() < 0.5
    assert found.min() >= -0.5
    assert (found > 0.499).mean() < 0.02  # clipped values would pile up there: a third of them
    assert abs(np.median(found) - 0.293) < 0.01  # of that distribution, numerically


def test_same_seed_same_points_and_the_generator_advances() -> None:
    rng = np.random.RandomState(3)
    first, second = coarse_points(BOXES, "rg", rng=rng), coarse_points(BOXES, "rg", rng=rng)
    np.testing.assert_array_equal(first, coarse_points(BOXES, "rg", rng=np.random.RandomState(3)))
    assert not np.array_equal(first, second)
    assert coarse_points(np.zeros((0, 4)), "rg").shape == (0, 2)


@pytest.mark.parametrize("dist", ["uniform", "rg", "center_gaussian"])
def test_points_lie_on_the_mask(dist: Any) -> None:
    boxes = np.tile([30.0, 40.0, 20.0, 30.0], (200, 1))
    left = [[30, 40, 40, 40, 40, 70, 30, 70]]  # the left half of the box
    points = coarse_points(boxes, dist, masks=[left] * 200)
    assert points[:, 0].max() <= 40.5  # half a pixel of jitter beyond the last column
    assert points[:, 0].min() >= 29.5
    assert np.ptp(points[:, 1]) > 10


def test_run_lengths_are_read_in_the_whole_image() -> None:
    mask = np.zeros((50, 60), np.uint8)
    mask[20:30, 25:28] = 1
    counts, value, run = [], 0, 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    encoded = {"size": [50, 60], "counts": [*counts, run]}
    boxes = np.tile([20.0, 15.0, 20.0, 20.0], (100, 1))
    points = coarse_points(boxes, masks=[encoded] * 100)
    assert (points >= [24.5, 19.5]).all()
    assert (points <= [27.5, 29.5]).all()
    assert np.ptp(points[:, 1]) > 5


def test_masks_without_pixels_give_a_vertex_or_the_centre() -> None:
    thin = coarse_points([[5, 6, 1, 20]], masks=[[[5, 6, 6, 6, 6, 26]]])
    assert np.abs(thin - [[5, 6], [6, 6], [6, 26]]).max(1).min() <= 0.5
    empty = {"size": [50, 60], "counts": [3000]}
    assert np.abs(coarse_points([[10, 10, 20, 8]], masks=[empty]) - [20, 14]).max() <= 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dist": "gaussian"}, "no distribution without masks"),
        ({"dist": "center_gaussian"}, "no distribution without masks"),
        ({"dist": "fixed", "masks": [None]}, "no distribution with masks"),
        ({"dist": "rg", "sigma": 0.0}, "not positive"),
        ({"dist": "rg", "mu": 9.0}, "too far"),
        ({"size_range": 0.0}, r"not in \(0, 1\]"),
        ({"dist": "fixed", "at": (0.5, 1.5)}, "no point of a box"),
        ({"masks": []}, "0 masks for 1 boxes"),
        ({"masks": ["polygon"]}, "cannot be read"),
        ({"masks": [[[0, 0, 4, 4]]]}, "less than three points"),
        ({"masks": [[[]]]}, "less than three points"),
        ({"boxes": [[0, 0, np.nan, 4]]}, "not finite"),
        ({"draws": [0.5]}, "fewer draws"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        coarse_points(**{"boxes": [[0, 0, 10, 20]], **change})


def test_clipping_counts_whole_pixels() -> None:
    boxes = [[-4, 10, 10, 10], [95, 45, 10, 10], [98.5, 10, 10, 10], [200, 10, 10, 10]]
    clipped = clip_boxes(boxes, (100, 50))
    assert clipped.tolist() == [[0, 10, 6, 10], [95, 45, 5, 5], [98.5, 10, 1.5, 10], [99, 10, 1, 10]]
    assert keep_boxes(clipped).tolist() == [True, True, False, False]
    assert keep_boxes([[0, 0, 2, 9], [0, 0, 2.1, 2.1], [0, 0, 2.1, 1.9]]).tolist() == [False, True, False]


def test_pseudo_boxes_of_points_near_and_beyond_the_border() -> None:
    points = [[50, 25], [0, 0], [100, 50], [107, 25], [130, 25]]
    boxes, kept = pseudo_boxes(points, (16, 8), (100, 50))
    np.testing.assert_allclose(boxes[0], [42, 21, 16, 8])
    np.testing.assert_allclose(boxes[1], [0, 0, 8, 4])
    assert kept.tolist() == [True, True, True, False, False]  # 107: only the last column is inside
    unclipped, all_kept = pseudo_boxes(points, (16, 8))
    np.testing.assert_allclose(unclipped[4], [122, 21, 16, 8])
    assert all_kept.all()
    sizes = np.array([[4, 4], [6, 8]])
    assert pseudo_boxes([[10, 10], [20, 20]], sizes)[0].tolist() == [[8, 8, 4, 4], [17, 16, 6, 8]]
    for wrong in ((0, 16), (16, np.inf)):
        with pytest.raises(InputError, match="not positive"):
            pseudo_boxes(points, wrong)
    with pytest.raises(InputError, match="point is not finite"):
        pseudo_boxes([[np.nan, 0]])


def test_mean_sizes_leave_small_boxes_out() -> None:
    boxes = [[0, 0, 4, 9], [0, 0, 16, 4], [0, 0, 1, 500], [0, 0, 1, 1]]
    assert class_sizes(boxes, [1, 1, 1, 2], "mean_wh") == {1: pytest.approx((8.0, 6.0))}
    assert class_sizes(boxes, [1, 1, 1, 2]) == {1: pytest.approx((48**0.5, 48**0.5))}
    with pytest.raises(InputError, match="not a choice"):
        class_sizes(boxes, [1, 1, 1, 2], "mean")  # type: ignore[arg-type]


def test_share_of_fully_supervised_objects() -> None:
    given = np.arange(50) < 10
    chosen = fully_supervised(given, 0.4, np.random.RandomState(0))
    assert chosen[:10].all()
    assert 10 < chosen.sum() <= 20  # the list that the other ten are taken from holds all objects
    assert fully_supervised(50, 0.4, np.random.RandomState(0)).sum() == 20
    assert fully_supervised(given, 0.1, np.random.RandomState(0)).tolist() == given.tolist()
    assert fully_supervised(50, 1.0, np.random.RandomState(0)).all()
    with pytest.raises(InputError, match="not in"):
        fully_supervised(50, 1.2, np.random.RandomState(0))
