"""Tiles: they cover the image, share objects out by the rules, and refuse sizes that do not move on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from p2p_files import small_content

from p2p_loc.tiles import crop_annotations, tile_annotations, tile_image
from vireo.errors import InputError

SIDE = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(
    SIDE, SIDE, st.integers(1, 40), st.integers(1, 40), st.integers(0, 30), st.sampled_from(["slide", "shift", "grid"])
)
def test_tiles_cover_the_image(width: int, height: int, tile_w: int, tile_h: int, overlap: int, policy: Any) -> None:
    both = (min(overlap, tile_w - 1), min(overlap, tile_h - 1))
    corners = tile_image((width, height), (tile_w, tile_h), both, policy)
    seen = np.zeros((height, width), np.int64)
    for left, top, right, bottom in corners.tolist():
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        seen[top:bottom, left:right] += 1
        if policy == "shift":
            assert (right - left, bottom - top) == (min(tile_w, width), min(tile_h, height))
    assert seen.all()
    assert len({tuple(corner) for corner in corners.tolist()}) == len(corners)


def test_an_image_smaller_than_the_tile_is_one_tile() -> None:
    for policy in ("shift", "grid", "runtime"):
        assert tile_image((60, 50), (64, 64), (16, 16), policy).tolist() == [[0, 0, 60, 50]]
    # The authors' sliding tiler begins another one wherever the step falls into the image.
    assert tile_image((60, 40), (64, 64), (16, 16), "slide").tolist() == [[0, 0, 60, 40], [48, 0, 60, 40]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": (64, 64), "overlap": (64, 0)}, "do not cover"),
        ({"tile": (0, 64), "overlap": (0, 0)}, "do not cover"),
        ({"overlap": (-1, 0)}, "do not cover"),
        ({"tile": (64,)}, "two numbers"),
        ({"size": (0, 10)}, "an image of"),
        ({"policy": "random"}, "no policy"),
    ],
)
def test_tiles_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tile_image(**{"size": (100, 100), **change})


def test_boxes_belong_by_share_and_points_by_place() -> None:
    corners = [[0, 0, 100, 50], [90, 0, 190, 50]]
    boxes = [[80, 10, 21, 11], [95, 10, 5, 5], [97, 10, 20, 20], [20, 10, 1, 20], [50, 10, 2, 9]]
    found = crop_annotations(corners, boxes, ignore=[False, False, False, False, False])
    # In inclusive pixels the first has 19 of 20 columns in the left tile and 10 of 20 in the right one, the third 2 of
    # 19 in the left one; the fourth has no area; the fifth is small.
    assert list(zip(found.tile.tolist(), found.source.tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    np.testing.assert_allclose(found.boxes[2], [0, 10, 11, 11])
    ignored = crop_annotations(corners, boxes, ignore=[True] * 5)
    assert (0, 2) in zip(ignored.tile.tolist(), ignored.source.tolist())

    points = [[1.9, 20], [2, 20], [97.9, 20], [98, 20], [92, 47.9], [92, 48]]
    inside = crop_annotations(corners, np.tile([90, 10, 20, 20], (6, 1)), points=points)
    assert list(zip(inside.tile.tolist(), inside.source.tolist())) == [(0, 1), (0, 2), (0, 4), (1, 2), (1, 3), (1, 4)]
    assert inside.points is not None
    np.testing.assert_allclose(inside.points[4], [8, 20])
    np.testing.assert_allclose(inside.boxes[0], [90, 10, 10, 20])  # clipped
    assert len(crop_annotations(corners, np.zeros((0, 4))).tile) == 0


@pytest.mark.parametrize("by", ["points", "boxes"])
def test_tiled_content(by: Any) -> None:
    content = small_content()
    for row in content["annotations"]:
        x, y, width, height = row["true_bbox"] = row.pop("bbox")
        row["point"] = [x + width / 2, y + height / 2]
    del content["annotations"][1]["true_bbox"]
    tiled = tile_annotations(content, (80, 60), (20, 20), "shift", by=by)
    assert [image["id"] for image in tiled["images"]] == list(range(1, 11))
    assert [image["file_name"] for image in tiled["images"]] == ["b.png"] * 6 + ["a.png"] * 4
    assert tiled["images"][5]["corner"] == [120, 40, 200, 100]
    assert (tiled["images"][5]["width"], tiled["images"][5]["height"]) == (80, 60)
    last = [row for row in tiled["annotations"] if row["source_id"] == 8][-1]
    assert (last["image_id"], last["point"], last["true_bbox"]) == (6, [40, 30], [30, 20, 20, 20])
    ids = [row["id"] for row in tiled["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    known = {row["source_id"]: "true_bbox" in row for row in tiled["annotations"]}
    assert known.get(2, False) is False  # an object without box stays one, where it belongs by its point
    assert (2 in known) == (by == "points")
    assert content["annotations"][0]["point"] == [30, 35]  # the input is as it was

    again = tile_annotations(tiled, (40, 60), (0, 0), "shift")  # tiles of tiles lie where they lie in the image
    assert again["images"][-1]["corner"] == [80, 30, 120, 90]
