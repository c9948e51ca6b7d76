"""Points on images."""

from typing import Any

import numpy as np
import pytest
import torch

from p2p_loc.draw import HIGH, LOW, draw_points, score_colours


def test_a_point_is_drawn_where_it_lies() -> None:
    image = torch.full((3, 40, 60), 128, dtype=torch.uint8)
    drawn = draw_points(image, torch.tensor([[45.2, 11.7]]), colours=(255, 0, 0), radius=3)
    assert drawn.shape == (40, 60, 3)
    y, x = np.nonzero((drawn == (255, 0, 0)).all(2))
    assert (x.mean(), y.mean(), np.ptp(x)) == (45, 12, 6)
    assert (drawn[12, 45 - 4] == 0).all()  # the rim
    assert bool((image == 128).all())  # a copy was drawn on


def test_better_points_are_drawn_over_worse_ones() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    drawn = draw_points(image, [[10, 10], [10, 10]], scores=[1.0, 0.0])
    assert tuple(drawn[10, 10]) == HIGH
    assert tuple(draw_points(image, [[10, 10]], scores=[0.0])[10, 10]) == LOW


def test_colours_follow_scores() -> None:
    assert score_colours([0.0, 1.0, 7.0]).tolist() == [list(LOW), list(HIGH), list(HIGH)]


def test_points_outside_and_no_points_leave_the_image() -> None:
    image = np.full((20, 30, 3), 7, np.uint8)
    assert (draw_points(image, [[100, 5], [5, -50], [1e12, 0]]) == 7).all()
    assert (draw_points(image, np.zeros((0, 2))) == 7).all()


def test_large_images_get_larger_disks() -> None:
    small, large = (np.count_nonzero(draw_points(np.zeros((s, s, 3), np.uint8), [[50, 50]])) for s in (100, 4000))
    assert large > 8 * small


@pytest.mark.parametrize(
    ("image", "extra"),
    [
        (np.zeros((4, 4), np.uint8), {}),
        (np.zeros((4, 4, 3)), {}),
        (np.zeros((4, 4, 3), np.uint8), {"scores": [0.5, 0.5]}),
        (np.zeros((4, 4, 3), np.uint8), {"colours": [[0, 0, 0]] * 2}),
    ],
)
def test_what_does_not_fit_is_refused(image: np.ndarray, extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scores|colours|uint8"):
        draw_points(image, [[1, 1]], **extra)
