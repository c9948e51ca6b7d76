"""Tiles, cropped annotations and joined detections against the reference numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from p2p_golden import close, load

from p2p_loc.annotations import to_xyxy
from p2p_loc.merge import merge_tiles, offline_merge
from p2p_loc.tiles import crop_annotations, tile_image

TILES = [(640, 512), (640, 640)]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("mode", ["bbox", "point"])
def test_cropped_annotations(mode: str, tile: tuple[int, int]) -> None:
    case = load("tiles")
    name = f"{mode}_{tile[0]}x{tile[1]}_100_100"
    found: dict[str, list[Any]] = {key: [] for key in ("corner", "img", "ann_tile", "ann_src", "bbox", "point")}
    for image, size in enumerate(case["image_wh"].tolist()):
        corners = tile_image(size, tile, (100, 100))
        rows = np.flatnonzero(case["image"] == image)
        by: dict[str, Any] = {"points": case["point"][rows]} if mode == "point" else {"ignore": case["ignore"][rows]}
        crop = crop_annotations(corners, case["bbox"][rows], **by)
        found["ann_tile"].append(crop.tile + sum(map(len, found["corner"])))
        found["corner"].append(corners)
        found["img"].append([image] * len(corners))
        found["ann_src"].append(rows[crop.source])
        found["bbox"].append(crop.boxes)
        found["point"].append(crop.points)
    for key in ("corner", "img", "ann_tile", "ann_src"):
        close(np.concatenate(found[key]), case[f"{name}_{key}"], 0.0)
    close(np.concatenate(found["bbox"]), case[f"{name}_bbox"], 1e-9)
    if mode == "point":
        close(np.concatenate(found["point"]), case[f"{name}_point"], 1e-9)


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (600, 400)])
@pytest.mark.parametrize(("tile", "overlap"), [((640, 512), 50), ((640, 640), 100)])
def test_the_older_splitter(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> None:
    case = load("tiles")
    for fix, policy in enumerate(("grid", "shift")):
        corners = tile_image(size, tile, (overlap, overlap), policy)  # type: ignore[arg-type]
        close(corners, case[f"split_{size[0]}x{size[1]}_{tile[0]}x{tile[1]}_{overlap}_{fix}"], 0.0)


@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (640, 512), (600, 400), (3000, 700)])
@pytest.mark.parametrize("tile", TILES)
def test_tiles_of_prediction(size: tuple[int, int], tile: tuple[int, int]) -> None:
    case = load("tiles")
    corners = tile_image(size, tile, (100, 100), "runtime")
    name = f"runtime_{size[0]}x{size[1]}_{tile[0]}x{tile[1]}"
    close(corners[:, :2], case[f"{name}_offset"], 0.0)
    close((corners[:, 2:] - corners[:, :2])[:, ::-1], case[f"{name}_shape"], 0.0)


def test_offline_merge() -> None:
    case = load("merge")
    kept, boxes = offline_merge(case["det_bbox"], case["det_score"], case["corners"][case["det_tile"], :2])
    close(kept, case["offline_index"], 0.0)
    close(boxes[kept], case["offline_bbox"], 1e-4)


@pytest.mark.parametrize("dense", [False, True])
def test_merged_tiles(dense: bool) -> None:
    case = load("merge")
    boxes, scores, labels = [], [], []
    for tile in range(len(case["corners"])):
        rows = case["det_tile"] == tile
        boxes.append(torch.from_numpy(to_xyxy(case["det_bbox"][rows])).float())
        scores.append(torch.from_numpy(case["det_score"][rows]).float())
        labels.append(torch.from_numpy(case["det_cat"][rows]) - 1)
    if dense:  # scores of all classes, as the networks give them
        tables = [torch.zeros(len(s), 2).scatter_(1, c[:, None], s[:, None]) for s, c in zip(scores, labels)]
        merged = merge_tiles(boxes, tables, case["corners"])
    else:
        merged = merge_tiles(boxes, scores, case["corners"], labels=labels)
    close(torch.cat([merged["boxes"], merged["scores"][:, None]], 1), case["runtime_dets"], 1e-4)
    close(merged["labels"], case["runtime_labels"], 0.0)
