"""The COCO reader: what it keeps, clips, drops and writes back."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from vireo.data import CocoDetection
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning", "ignore:__array__")

POLYGON = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "width": 60, "height": 40},
            {"id": 3, "file_name": "sub/a.png", "width": 50, "height": 50},
            {"id": 9, "file_name": "c.png", "width": 20, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 40, "bbox": [1.25, 2.5, 10.33, 20.07], "area": 150.5, "iscrowd": 0},
            {"id": 5, "image_id": 7, "category_id": 2, "bbox": [50, 30, 30, 30]},
            {"id": 2, "image_id": 3, "category_id": 2, "bbox": [0, 0, 50, 50], "iscrowd": 1},
            {"id": 4, "image_id": 3, "category_id": 2, "bbox": [0, 0, 0.5, 9], "ignore": 1},
        ],
        "categories": [{"id": 40, "name": "horse"}, {"id": 2, "name": "cat"}],
    }


def write(folder: Path, data: Any) -> Path:
    (folder / "sub").mkdir(exist_ok=True)
    for name, size in (("b.png", (60, 40)), ("sub/a.png", (50, 50)), ("c.png", (20, 30))):
        Image.new("RGB", size, (10, 20, 30)).save(folder / name)
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder / "annotations.json"


def test_records_follow_the_file(tmp_path: Path) -> None:
    data = CocoDetection(tmp_path, write(tmp_path, content()))
    assert data.classes == ("cat", "horse")
    assert data.category_ids == (2, 40)
    assert [record.file_name for record in data.records] == ["b.png", "sub/a.png", "c.png"]
    image, target = data[1]
    assert image.shape == (3, 50, 50)
    assert image[:, 0, 0].tolist() == [10, 20, 30]
    assert target["ids"].tolist() == [1, 2, 4]
    assert target["labels"].tolist() == [1, 0, 0]
    assert target["iscrowd"].tolist() == [False, True, True]  # `ignore` counts as crowd
    torch.testing.assert_close(target["boxes"][0], torch.tensor([1.25, 2.5, 11.58, 22.57]))
    assert target["area"].tolist() == [150.5, 2500.0, 4.5]
    assert target["image_id"] == 3
    assert target["orig_size"] == target["size"] == data.image_size(1) == (50, 50)
    assert data.skipped == []
    empty = data[2][1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].dtype == torch.int64


def test_box_that_sticks_out_is_clipped_and_noted(tmp_path: Path) -> None:
    data = CocoDetection(tmp_path, write(tmp_path, content()))
    assert data.records[0].boxes.tolist() == [[50, 30, 60, 40]]
    assert data.records[0].area.tolist() == [100]
    assert len(data.notes) == 1
    assert "1 boxes that stuck out" in data.notes[0]
    assert "annotation 5 of image 'b.png'" in data.notes[0]


def test_coco_writes_back_the_numbers_of_the_file(tmp_path: Path) -> None:
    data = content()
    data["annotations"][1]["bbox"] = [12.34, 5.67, 40.21, 30.08]
    written = CocoDetection(tmp_path, write(tmp_path, data)).coco()
    assert written["images"] == data["images"]
    assert written["categories"] == sorted(data["categories"], key=lambda category: category["id"])
    by_id = {annotation["id"]: annotation for annotation in written["annotations"]}
    for annotation in data["annotations"]:
        assert by_id[annotation["id"]]["bbox"] == annotation["bbox"]
        assert by_id[annotation["id"]]["category_id"] == annotation["category_id"]
    assert by_id[1]["area"] == 150.5
    assert by_id[4]["iscrowd"] == 1
    again = CocoDetection(tmp_path, write(tmp_path, written))
    assert again.coco() == written


def test_filters_say_what_they_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, content())
    data = CocoDetection(tmp_path, file, min_size=32, drop_empty=True, min_box=1)
    assert [record.image_id for record in data.records] == [7, 3]
    assert data.records[1].ids.tolist() == [1, 2]
    assert any("side under 32 px" in line and "c.png" in line for line in data.notes)
    assert any("side under 1 px" in line and "annotation 4" in line for line in data.notes)
    assert len(CocoDetection(tmp_path, file, drop_empty=True)) == 2


def test_boxes_without_height_can_be_filtered(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["bbox"] = [5, 5, 3, 0]  # as in COCO train 2017
    file = write(tmp_path, data)
    with pytest.raises(InputError, match="no area"):
        CocoDetection(tmp_path, file)
    read = CocoDetection(tmp_path, file, min_box=1)
    assert read.records[1].ids.tolist() == [2]
    assert read.skipped == []


def test_true_boxes_are_carried_along(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["true_bbox"] = [2, 3, 10, 20]
    dataset = CocoDetection(tmp_path, write(tmp_path, data))
    target = dataset[1][1]
    assert target["true_boxes"][0].tolist() == [2, 3, 12, 23]
    assert torch.equal(target["true_boxes"][1:], target["boxes"][1:])  # where the file has none, the box stands in
    assert dataset.coco()["annotations"][1]["true_bbox"] == [2, 3, 10, 20]
    data["annotations"][0]["true_bbox"] = [2, 3, -1, 20]
    with pytest.raises(InputError, match=r"annotation 1 of image 'sub/a.png': true box has no area"):
        CocoDetection(tmp_path, write(tmp_path, data))


def test_masks_from_polygons_and_run_lengths(tmp_path: Path) -> None:
    data = content()
    square = np.zeros((50, 50), np.uint8, order="F")
    square[10:30, 10:30] = 1
    runs = coco_mask.encode(square)
    counts = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], square.ravel(order="F"), [2]])))).tolist()
    data["annotations"][0]["segmentation"] = POLYGON
    data["annotations"][2]["segmentation"] = {"size": [50, 50], "counts": counts}
    data["annotations"][3]["segmentation"] = {"size": [50, 50], "counts": runs["counts"].decode()}
    data["annotations"][1]["segmentation"] = [[50, 30, 59, 30, 59, 39]]
    file = write(tmp_path, data)
    dataset = CocoDetection(tmp_path, file, masks=True)
    masks = dataset[1][1]["masks"]
    assert masks.dtype == torch.uint8
    assert all(np.array_equal(mask.numpy(), square) for mask in masks)
    assert dataset[2][1]["masks"].shape == (0, 30, 20)
    assert "masks" not in CocoDetection(tmp_path, file)[1][1]
    assert dataset.coco()["annotations"][1]["segmentation"] == POLYGON
    for wrong in (
        None,
        [],
        [[1, 2, 3]],
        [["x"] * 6],
        {"size": [9, 9], "counts": []},
        {"size": [50, 50], "counts": [3]},
    ):
        data["annotations"][0]["segmentation"] = wrong
        with pytest.raises(InputError, match=r"annotation 1 of image 'sub/a.png': segmentation"):
            CocoDetection(tmp_path, write(tmp_path, data), masks=True)


def test_records_replaced_and_pickled(tmp_path: Path) -> None:
    data = CocoDetection(tmp_path, write(tmp_path, content()))
    copy = pickle.loads(pickle.dumps(data.with_records(data.records[1:2])))
    assert len(copy) == 1
    assert len(data) == 3
    assert torch.equal(copy[0][0], data[1][0])
    assert torch.equal(copy[0][1]["boxes"], data[1][1]["boxes"])


def test_file_without_annotations_for_prediction(tmp_path: Path) -> None:
    data = content()
    del data["annotations"]
    dataset = CocoDetection(tmp_path, write(tmp_path, data), allow_empty=True)
    assert [len(record) for record in dataset.records] == [0, 0, 0]
    assert dataset.coco()["annotations"] == []
