"""Points without boxes: csv, json, text and MATLAB files, and what is wrong with some of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from p2p_loc.point_files import read_points
from vireo.errors import InputError
from vireo.testing import call_script


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """IMG_1.jpg of 60 x 40 pixels, IMG_2.png of 30 x 50."""
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "IMG_1.jpg"), np.zeros((40, 60, 3), np.uint8))
    cv2.imwrite(str(folder / "IMG_2.png"), np.zeros((50, 30, 3), np.uint8))
    return folder


def points_of(content: dict[str, Any]) -> dict[str, list[list[float]]]:
    names = {row["id"]: row["file_name"] for row in content["images"]}
    found: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for row in content["annotations"]:
        found[names[row["image_id"]]].append(row["point"])
    return found


def test_csv(tmp_path: Path, images: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("file_name,x,y,category\nIMG_1.jpg,10,20.5,boat\nIMG_2.png,5,6,\nIMG_1.jpg,10,20.5,boat\n")
    content = read_points(file, images).content
    assert points_of(content) == {"IMG_1.jpg": [[10, 20.5], [10, 20.5]], "IMG_2.png": [[5, 6]]}  # duplicates stay
    assert [(row["width"], row["height"]) for row in content["images"]] == [(60, 40), (30, 50)]
    assert content["categories"] == [{"id": 1, "name": "boat"}, {"id": 2, "name": "person"}]
    assert [row["category_id"] for row in content["annotations"]] == [1, 2, 1]
    assert not any("bbox" in row or "true_bbox" in row for row in content["annotations"])

    file.write_text("x,y,file_name,width,height\n1,2,a.jpg,10,20\n")  # sizes in the file: no images needed
    assert [(row["width"], row["height"]) for row in read_points(file).content["images"]] == [(10, 20)]


def test_json(tmp_path: Path, images: Path) -> None:
    file = tmp_path / "points.json"
    file.write_text('{"IMG_1.jpg": [[1, 2], [3, 4.5]], "IMG_2.png": []}')
    assert points_of(read_points(file, images).content) == {"IMG_1.jpg": [[1, 2], [3, 4.5]], "IMG_2.png": []}
    file.write_text('[{"file_name": "b.jpg", "x": 1, "y": 2, "width": 10, "height": 10}]')
    assert points_of(read_points(file).content) == {"b.jpg": [[1, 2]]}
    coco = read_points(file).content
    file.write_text(json.dumps(coco))
    assert read_points(file).content == coco


def test_text_files(tmp_path: Path, images: Path) -> None:
    folder = tmp_path / "truth"
    folder.mkdir()
    (folder / "IMG_1.txt").write_text("1 2\n3.5,4\n\n5\t6 0.9\n")
    (folder / "GT_IMG_2.txt").write_text("")
    (folder / "readme.md").write_text("not a point file")
    assert points_of(read_points(folder, images).content) == {"IMG_2.png": [], "IMG_1.jpg": [[1, 2], [3.5, 4], [5, 6]]}


def shanghai_tech(path: Path, points: np.ndarray) -> None:
    """The nesting of the set's own files: a cell that holds a structure with location and number."""
    info = np.empty((1, 1), object)
    info[0, 0] = {"location": points, "number": np.array([[len(points)]], np.uint8)}
    savemat(path, {"image_info": info})


def test_matlab_files(tmp_path: Path, images: Path) -> None:
    folder = tmp_path / "ground_truth"
    folder.mkdir()
    shanghai_tech(folder / "GT_IMG_1.mat", np.array([[29.6, 12.2], [1.0, 40.6]]))
    savemat(folder / "IMG_2.mat", {"annPoints": np.array([[3, 4], [5, 6]], np.int32)})
    found = points_of(read_points(folder, images).content)
    assert found == {"IMG_1.jpg": [[29.6, 12.2], [1, 40]], "IMG_2.png": [[3, 4], [5, 6]]}  # 40.6 moved to the border


def test_matlab_files_without_points(tmp_path: Path, images: Path) -> None:
    folder = tmp_path / "ground_truth"
    folder.mkdir()
    (folder / "IMG_1.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(InputError, match=r"IMG_1\.mat: cannot be read as a MATLAB file"):
        read_points(folder, images)
    savemat(folder / "IMG_1.mat", {"density": np.zeros((4, 5)), "note": "none"})
    with pytest.raises(InputError, match="holds no array of points"):
        read_points(folder, images)


def test_labels_from_points_alone(tmp_path: Path, images: Path) -> None:
    file, out = tmp_path / "points.json", tmp_path / "out.json"
    file.write_text('{"IMG_1.jpg": [[1, 2], [30, 20]]}')
    outcome = call_script("p2p_loc.points", "--points", file, "--images", images, "--out", out)
    assert outcome.status == 0, outcome.err
    assert "mean distance     unknown" in outcome.out
    rows = json.loads(out.read_text())["annotations"]
    assert [row["bbox"] for row in rows] == [[0, 0, 9, 10], [22, 12, 16, 16]]
    assert not any("true_bbox" in row for row in rows)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y\n1,2\n", "the columns are x, y"),
        ("a.csv", "", "the columns are none"),
        ("a.csv", "file_name,x,y\n,1,2\n", "point 1: has no file_name"),
        ("a.csv", "file_name,x,y\nIMG_1.jpg,1,up\n", "are no numbers"),
        ("a.csv", "file_name,x,y\nIMG_1.jpg,nan,1\n", "lies outside of its 60x40 image"),
        ("a.csv", "file_name,x,y\nIMG_1.jpg,1\n", "are no numbers"),
        ("a.csv", "file_name,x,y\nnone.jpg,1,2\n", r"none\.jpg"),
        ("a.json", '{"IMG_1.jpg": [[61.5, 2]]}', r"point 1 of 'IMG_1\.jpg': point \(61.5, 2\) lies outside"),
        ("a.json", '{"IMG_1.jpg": [[1, 2, 3]]}', r"no list of \[x, y\]"),
        ("a.json", '{"IMG_1.jpg": []}', "no point is left"),
        ("a.json", "17", "holds no points"),
        ("a.json", "[[1, 2]]", "has no file_name"),
        ("a.xml", "<a/>", "no csv, json or folder"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, images: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_points(tmp_path / name, images)


def test_sizes_and_folders_that_are_not_known(tmp_path: Path, images: Path) -> None:
    file, folder = tmp_path / "points.csv", tmp_path / "truth"
    with pytest.raises(InputError, match="no such file"):
        read_points(file)
    file.write_text("file_name,x,y\na.jpg,1,2\n")
    with pytest.raises(InputError, match=r"size of 'a\.jpg' is not known.*--images"):
        read_points(file)
    file.write_text("file_name,x,y,width,height\na.jpg,1,2,wide,3\n")
    with pytest.raises(InputError, match="not in whole pixels"):
        read_points(file)
    folder.mkdir()
    with pytest.raises(InputError, match="images are not known"):
        read_points(folder)
    with pytest.raises(InputError, match="no such folder"):
        read_points(folder, tmp_path / "none")
    with pytest.raises(InputError, match=r"no \.txt and no \.mat"):
        read_points(folder, images)
    (folder / "IMG_1.txt").write_text("0 0.5 0.5 0.1 0.1\n")  # a box of YOLO's
    with pytest.raises(InputError, match=r"line 1: '0 0\.5 0\.5 0\.1 0\.1' is no point"):
        read_points(folder, images)
    (folder / "IMG_1.txt").write_text("1\n")
    with pytest.raises(InputError, match="line 1: '1' is no point"):
        read_points(folder, images)


def test_bad_records_are_skipped_and_listed(tmp_path: Path, images: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("file_name,x,y\nIMG_1.jpg,1,2\nIMG_1.jpg,100,2\nnone.jpg,1,2\nIMG_1.jpg,a,b\n")
    content, skipped = read_points(file, images, "skip")
    assert points_of(content) == {"IMG_1.jpg": [[1, 2]]}
    assert len(skipped) == 3
    folder = tmp_path / "truth"
    folder.mkdir()
    (folder / "IMG_1.txt").write_text("1 2\n")
    (folder / "IMG_9.txt").write_text("1 2\n")
    with pytest.raises(InputError, match=r"IMG_9\.txt: there is no image of that name"):
        read_points(folder, images)
    content, skipped = read_points(folder, images, "skip")
    assert len(content["images"]) == len(skipped) == 1
