"""Tiles as a data set: pixels, one decode for each large image, training filters, checks of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from p2p_files import small_content
from torch import Tensor

from p2p_loc import tile_dataset
from p2p_loc.tile_dataset import CachedImages, FolderImages, TileDataset, check_images
from vireo.errors import InputError


class Pictures:
    """Pictures whose pixels tell where they are; counts how often each is loaded."""

    def __init__(self, height: int = 100, width: int = 200) -> None:
        self.loaded: list[str] = []
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        self.picture = torch.stack([x, y, torch.zeros_like(x)]).to(torch.uint8)

    def load(self, name: str) -> Tensor:
        self.loaded.append(name)
        return self.picture


def tiled() -> dict[str, Any]:
    corners = [[0, 0, 80, 60], [60, 40, 140, 100], [120, 40, 200, 100]]
    images = [
        {"id": i, "file_name": f"{name}.png", "width": 80, "height": 60, "corner": corner}
        for i, (name, corner) in enumerate([(n, c) for n in "ab" for c in corners])
    ]
    box = {"category_id": 1, "bbox": [10, 10, 16, 16], "point": [18, 18], "iscrowd": 0}
    annotations = [{**box, "id": i + 1, "image_id": i} for i in (0, 1, 4)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def test_tiles_are_cut_out_of_images_decoded_once() -> None:
    pictures = Pictures()
    tiles = TileDataset(CachedImages(pictures), tiled())
    assert len(tiles) == 6
    assert tiles.corners[4] == (60, 40, 140, 100)
    for i in range(6):
        image, target = tiles[i]
        left, top, _, _ = tiles.corners[i]
        assert image.shape == (3, 60, 80)
        assert image[:2, 5, 7].tolist() == [left + 7, top + 5]
        assert (target["image_id"], target["size"], target["orig_size"]) == (i, (60, 80), (60, 80))
    assert pictures.loaded == ["a.png", "b.png"]
    assert [len(TileDataset(pictures, tiled(), train=True)[i][1]["boxes"]) for i in range(3)] == [1, 1, 1]


def test_decoded_images_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_dataset, "_CACHE_BYTES", 1000)  # less than one picture: the last one stays all the same
    pictures = Pictures()
    tiles = TileDataset(CachedImages(pictures), tiled())
    for i in (0, 1, 4, 5, 2):
        tiles.load_image(i)
    assert pictures.loaded == ["a.png", "b.png", "a.png"]


def test_training_leaves_out_what_is_not_trained_on() -> None:
    content = small_content()
    every = TileDataset(Pictures(), content)
    assert [record.ids.tolist() for record in every.records] == [[1, 3, 5, 6, 7, 8], [2, 4]]
    assert every.records[0].iscrowd.tolist() == [False, True, False, False, False, False]
    assert every.records[1].iscrowd.tolist() == [False, True]  # ignored
    assert every.category_ids == (2, 5)
    assert every.records[1].labels.tolist() == [1, 0]
    assert every.truth["annotations"] == content["annotations"]

    trained = TileDataset(Pictures(), content, train=True)  # 5 is narrow, 6 outside, 7 without area
    assert [record.ids.tolist() for record in trained.records] == [[1, 8], [2]]
    assert not any(record.iscrowd.any() for record in trained.records)
    content["annotations"][0]["area"] = None  # not known: that of the box
    kept = TileDataset(Pictures(), content, train=True, drop_ignore=False)
    assert kept.records[0].area.tolist() == [1200, 400]
    assert [record.ids.tolist() for record in kept.records] == [[1, 8], [2, 4]]


def test_images_without_trained_objects() -> None:
    content = small_content()
    empty = {"id": 9, "width": 50, "height": 50, "file_name": "c.png"}
    content["images"].append(empty)
    content["annotations"] = [row for row in content["annotations"] if row["id"] != 2]  # image 3 has an ignored one
    assert [record.image_id for record in TileDataset(Pictures(), content).records] == [7, 3, 9]
    trained = TileDataset(Pictures(), content, train=True)  # background stays, an image that nobody annotated goes
    assert [(record.image_id, len(record)) for record in trained.records] == [(7, 2), (3, 0)]
    assert [record.image_id for record in TileDataset(Pictures(), content, train=True, min_gt_size=2).records] == [7]
    with pytest.raises(InputError, match="no object is left to train on"):
        TileDataset(Pictures(), content, train=True, min_gt_size=60)

    for row in content["annotations"]:
        row["ignore"] = True
    with pytest.raises(InputError, match=r"all are ignored.*drop_ignore=false"):
        TileDataset(Pictures(), content, train=True)
    assert len(TileDataset(Pictures(), content, train=True, drop_ignore=False)) == 2


def files(folder: Path, **sizes: tuple[int, int]) -> FolderImages:
    for name, (width, height) in sizes.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((height, width, 3), np.uint8))
    return FolderImages(folder)


@pytest.mark.parametrize("extent", ["headers", "full"])
def test_files_are_checked_against_the_content(tmp_path: Path, extent: str) -> None:
    images = files(tmp_path, a=(120, 90), b=(200, 100))
    content = small_content()
    assert check_images(images, content, extent, "raise") == (content, [])
    files(tmp_path, b=(201, 100))
    with pytest.raises(InputError, match=r"b\.png: image is 201x100 pixels, its annotation says 200x100"):
        check_images(images, content, extent, "raise")
    kept, lines = check_images(images, content, extent, "skip")
    assert [image["id"] for image in kept["images"]] == [3]
    assert [row["id"] for row in kept["annotations"]] == [2, 4]
    assert len(lines) == 1
    assert "b.png" in lines[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png: image file is missing"):
        check_images(images, {**content, "images": content["images"][1:]}, "none", "raise")
    with pytest.raises(InputError, match="no image is left"):
        check_images(images, content, extent, "skip")
    with pytest.raises(InputError, match="not a choice"):
        check_images(images, content, "all", "raise")
    with pytest.raises(InputError, match="folder of images is missing"):
        check_images(FolderImages(tmp_path / "none"), content, extent, "raise")


def test_tiles_must_lie_in_their_image(tmp_path: Path) -> None:
    images = files(tmp_path, a=(210, 110), b=(200, 100))  # an image may be larger than its tiles say
    content = tiled()
    assert check_images(images, content, "headers", "raise")[1] == []
    files(tmp_path, b=(199, 100))
    with pytest.raises(InputError, match=r"b\.png: image is 199x100 pixels, its annotation says at least 200x100"):
        check_images(images, content, "headers", "raise")
    assert TileDataset(images, content).load_image(4).shape == (3, 60, 80)
    with pytest.raises(InputError, match="at least 200x100"):
        TileDataset(images, content).load_image(5)


def test_a_file_cut_off_is_found_before_training(tmp_path: Path) -> None:
    images = files(tmp_path, a=(120, 90), b=(200, 100))
    data = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    assert len(check_images(images, small_content(), "headers", "skip")[1]) == 0
    assert len(check_images(images, small_content(), "full", "skip")[1]) == 1
