"""p2p-points: one command from boxes or points to labels; same bytes for the same seed; what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from p2p_files import coco_settings, small_content, write_json, write_people

from p2p_loc.annotations import PointAnnotations
from p2p_loc.coarse import coarse_points
from p2p_loc.data import build_training
from p2p_loc.point_labels import PointSettings, TileSettings, make_labels
from vireo.data import GeneratedShapes
from vireo.errors import InputError
from vireo.testing import Outcome, call_script


def run(*arguments: object) -> Outcome:
    return call_script("p2p_loc.points", *arguments)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people") / "set", train=4, val=1)


def test_labels_of_a_small_file() -> None:
    content = small_content()
    labels = make_labels(content, points=PointSettings(seed=3))
    found = labels.statistics
    assert (found.given, found.unusable, found.dropped, found.objects) == (8, 3, 0, 5)  # 5, 6 and 7 cannot be used
    rows = labels.content["annotations"]
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 8]
    drawn = coarse_points([row["bbox"] for row in content["annotations"]], rng=np.random.RandomState(3))
    np.testing.assert_allclose([row["point"] for row in rows], drawn[[0, 1, 2, 3, 7]], atol=5.1e-4)  # all are drawn for
    assert [row["true_bbox"] for row in rows] == [content["annotations"][i]["bbox"] for i in (0, 1, 2, 3, 7)]
    assert rows[0]["area"] == 700
    x, y = rows[0]["point"]
    assert rows[0]["bbox"] == pytest.approx([x - 8, y - 8, 16, 16], abs=1e-9)
    assert "bbox" in content["annotations"][0]  # the input is as it was
    assert "point" not in content["annotations"][0]
    assert len(PointAnnotations.from_coco(labels.content)) == 5


def test_points_that_are_odd_are_kept_and_counted() -> None:
    content = small_content()
    content["annotations"] = [
        {"id": 1, "image_id": 7, "category_id": 2, "point": [20, 30], "true_bbox": [10, 20, 40, 30]},
        {"id": 2, "image_id": 7, "category_id": 2, "point": [20, 30]},  # at the same place
        {"id": 3, "image_id": 7, "category_id": 5, "point": [20, 30]},  # of another category
        {"id": 4, "image_id": 7, "category_id": 2, "point": [60, 30], "true_bbox": [10, 20, 40, 30]},  # off its box
        {"id": 5, "image_id": 7, "category_id": 2, "point": [203, 30]},  # outside, but its label is not
        {"id": 6, "image_id": 7, "category_id": 2, "point": [230, 30]},  # far outside
        {"id": 7, "image_id": 7, "category_id": 2, "point": [90, 60], "bbox": [1, 2, 3, 4]},  # an old label
    ]
    labels = make_labels(content)
    found = labels.statistics
    assert (found.objects, found.dropped, found.outside_image, found.outside_box, found.duplicates) == (6, 1, 2, 1, 1)
    assert found.mean_distance == pytest.approx((np.hypot(10 / 40, 5 / 30) + np.hypot(30 / 40, 5 / 30)) / 2)
    rows = labels.content["annotations"]
    assert rows[0]["bbox"] == rows[1]["bbox"]
    assert rows[4]["bbox"] == [195, 22, 5, 16]
    assert rows[5]["bbox"] == [82, 52, 16, 16]
    assert "true_bbox" not in rows[5]
    with pytest.raises(InputError, match="has no true box to be supervised with"):
        make_labels(content, fully_ratio=1.0)
    with pytest.raises(InputError, match="has no box"):
        make_labels(content, labels="boxes")
    with pytest.raises(InputError, match="category 5 has no true box"):
        make_labels(content, pseudo_box="mean_wh")


def test_mean_sizes_and_true_boxes() -> None:
    content = small_content()
    content["annotations"] = [row for row in content["annotations"] if row["id"] in (1, 2, 4, 8)]
    sizes = {row["id"]: row["bbox"][2:] for row in make_labels(content, pseudo_box="mean_wh").content["annotations"]}
    assert sizes[8] == pytest.approx([20, 800**0.5], abs=1e-3)
    full = make_labels(content, fully_ratio=0.5)
    assert full.statistics.fully_supervised == 2
    boxes = make_labels(content, labels="boxes", tiles=TileSettings((80, 60), (20, 20), "shift"))
    found = [tuple(row["bbox"][2:]) for row in boxes.content["annotations"] if row["source_id"] == 2]
    assert found == [(20, 30), (20, 30), (20, 40), (20, 40)]


def test_a_written_file(folder: Path, tmp_path: Path) -> None:
    options = ("--coco", folder / "train.json", "--dist", "rg", "--sigma", 0.2, "--seed", 5, "--pseudo-box", 12, 20)
    outcome = run(*options, "--out", tmp_path / "a" / "points.json")
    assert outcome.status == 0, outcome.err
    content = read(tmp_path / "a" / "points.json")
    statistics = content["p2p_points"]["statistics"]
    assert f"objects           {statistics['objects']}" in outcome.out
    assert "mean distance" in outcome.out
    assert len(content["annotations"]) == statistics["objects"]
    assert content["p2p_points"]["points"]["sigma"] == 0.2
    run(*options, "--out", tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a" / "points.json").read_bytes()
    run(*options, "--seed", 6, "--out", tmp_path / "b.json")
    assert read(tmp_path / "b.json")["annotations"] != content["annotations"]


def test_a_written_file_can_get_other_labels(folder: Path, tmp_path: Path) -> None:
    run("--coco", folder / "train.json", "--out", tmp_path / "a.json")
    run("--coco", tmp_path / "a.json", "--pseudo-box", 8, 8, "--seed", 9, "--out", tmp_path / "b.json")
    first, second = (read(tmp_path / name)["annotations"] for name in ("a.json", "b.json"))
    assert [row["point"] for row in first] == [row["point"] for row in second]
    assert [row["true_bbox"] for row in first] == [row["true_bbox"] for row in second]
    assert max(row["bbox"][2] for row in second) == pytest.approx(8)


def test_crops_are_the_tiles(folder: Path, tmp_path: Path) -> None:
    cut = ("--tile", 48, 40, "--overlap", 16, 16, "--policy", "shift", "--seed", 2)
    source = ("--coco", folder / "train.json", "--images", folder / "images")
    assert run(*source, *cut, "--out", tmp_path / "tiles.json").status == 0
    outcome = run(*source, *cut, "--crops", tmp_path / "crops", "--out", tmp_path / "crops.json")
    assert outcome.status == 0, outcome.err
    tiles = build_training(coco_settings(folder, train_annotations=str(tmp_path / "tiles.json")))
    files = {"train_images": str(tmp_path / "crops"), "train_annotations": str(tmp_path / "crops.json")}
    crops = build_training(coco_settings(folder, **files, check_images="full"))
    assert [row["bbox"] for row in crops.content["annotations"]] == [
        row["bbox"] for row in tiles.content["annotations"]
    ]
    assert not any("corner" in row for row in crops.content["images"])
    whole, single = tiles.dataset(train=False), crops.dataset(train=False)
    assert len(whole) == len(single) == 4 * 4
    for i in (0, 7, 15):
        assert torch.equal(whole.load_image(i), single.load_image(i))

    broken = tmp_path / "images"
    broken.mkdir()
    for file in sorted((folder / "images").glob("train*"))[1:]:
        (broken / file.name).write_bytes(file.read_bytes())
    source = ("--coco", folder / "train.json", "--images", broken)
    assert (
        "image file is missing" in run(*source, *cut, "--crops", tmp_path / "c", "--out", tmp_path / "c.json").mistake()
    )
    outcome = run(*source, *cut, "--crops", tmp_path / "c", "--out", tmp_path / "c.json", "--on-error", "skip")
    assert outcome.status == 0, outcome.err
    assert len(read(tmp_path / "c.json")["images"]) == 3 * 4
    assert outcome.out.count("skipped  ") == 1


def test_voc(tmp_path: Path) -> None:
    GeneratedShapes(3, (64, 64), 0, object_size=(14, 30)).export(tmp_path / "voc", "train")
    arguments = ("--voc", tmp_path / "voc", "--split", "train", "--out", tmp_path / "points.json")
    assert run(*arguments, "--classes", "triangle", "ellipse").status == 0
    content = read(tmp_path / "points.json")
    assert [row["name"] for row in content["categories"]] == ["ellipse", "triangle"]
    assert {row["category_id"] for row in content["annotations"]} <= {1, 3}
    assert (tmp_path / "voc" / "JPEGImages" / content["images"][0]["file_name"]).is_file()
    crops = ("--tile", 40, 40, "--overlap", 8, 8, "--crops", tmp_path / "crops")
    assert run(*arguments, *crops).status == 0  # knows its folder of images
    name = read(tmp_path / "points.json")["images"][1]["file_name"]
    crop = cv2.imread(str(tmp_path / "crops" / name))
    assert crop is not None
    assert crop.shape == (32, 40, 3)


def test_masks(tmp_path: Path) -> None:
    content = small_content()
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        row["segmentation"] = [[x, y, x + width / 2, y, x + width / 2, y + height, x, y + height]]  # the left half
    source = write_json(tmp_path / "masks.json", content)
    assert run("--coco", source, "--masks", "--dist", "center_gaussian", "--out", tmp_path / "out.json").status == 0
    for row in read(tmp_path / "out.json")["annotations"]:
        assert row["point"][0] <= row["true_bbox"][0] + row["true_bbox"][2] / 2 + 0.5
    del content["annotations"][1]["segmentation"]
    write_json(source, content)
    mistake = run("--coco", source, "--masks", "--out", tmp_path / "out.json").mistake()
    assert "annotation 2 has no segmentation" in mistake


def test_mean_sizes_are_warned_about(folder: Path, tmp_path: Path) -> None:
    outcome = run("--coco", folder / "train.json", "--pseudo-box", "mean_size", "--out", tmp_path / "a.json")
    assert outcome.status == 0
    assert outcome.err.startswith("warning: mean_size looks at the true boxes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pseudo-box", "16"], "no size"),
        (["--pseudo-box", "big", "16"], "no size"),
        (["--pseudo-box", "0", "16"], "not positive"),
        (["--dist", "center_gaussian"], "without masks"),
        (["--sigma", "-1", "--dist", "rg"], "not positive"),
        (["--tile", "64", "64", "--overlap", "64", "64"], "do not cover"),
        (["--crops", "crops"], "--images"),
        (["--crops", "crops", "--images", "images"], "--tile"),
        (["--fully-ratio", "2"], "fully_ratio"),
        (["--classes", "dog"], "choose from person"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes(folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = run("--coco", folder / "train.json", "--out", tmp_path / "out.json", *arguments)
    assert message in outcome.mistake()
    assert not (tmp_path / "out.json").exists()


def test_the_input_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    before = (folder / "train.json").read_bytes()
    same = folder / "." / "train.json"
    assert "same file" in run("--coco", folder / "train.json", "--out", same).mistake()
    images = ("--images", folder / "images", "--tile", 40, 40, "--overlap", 8, 8, "--crops", folder / "images")
    assert "among the images" in run("--coco", same, *images, "--out", tmp_path / "a.json").mistake()
    assert (folder / "train.json").read_bytes() == before


def fault(content: dict[str, Any], section: str, **change: Any) -> dict[str, Any]:
    content[section][1] |= change
    return content


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("images", {"id": "x"}, "image x: 'id' is 'x', not an integer"),
        ("images", {"id": 7}, "image 7: the id is used twice"),
        ("images", {"width": 0}, "image 3: size 0 x 90 is not of two positive integers"),
        ("images", {"height": "90"}, "image 3: size 120 x '90' is not of two positive integers"),
        ("images", {"file_name": "../a.png"}, "leaves the folder"),
        ("images", {"corner": [0, 0, 10, 10]}, "is not of the size 120 x 90"),
        ("images", {"corner": [0, 0, 120.5, 90]}, "in whole pixels"),
        ("annotations", {"image_id": 99}, "annotation 2: no image has the id 99"),
        ("annotations", {"category_id": 1}, "annotation 2: no category has the id 1"),
        ("annotations", {"bbox": [1, 2, 3]}, "annotation 2: 'bbox' is"),
        ("annotations", {"bbox": [1, 2, -3, 4]}, "is negative"),
        ("annotations", {"bbox": [1, 2, 3, 10**400]}, "not 4 finite numbers"),
        ("annotations", {"id": 10**30}, "not an integer"),
        ("annotations", {"point": [1, None]}, "'point' is"),
        ("annotations", {"true_bbox": [1, 2, 3, True]}, "'true_bbox' is"),
        ("annotations", {"id": 1}, "annotation 1: the id is used twice"),
        ("categories", {"id": 2}, "category 1: id 2 or name 'boat' is used twice"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, section: str, change: dict[str, Any], message: str) -> None:
    source = write_json(tmp_path / "broken.json", fault(small_content(), section, **change))
    assert message in run("--coco", source, "--out", tmp_path / "out.json").mistake()
    if section == "categories":
        return
    outcome = run("--coco", source, "--on-error", "skip", "--out", tmp_path / "out.json")
    assert outcome.status == 0, outcome.err
    lost = section == "images" and "id" in change  # then its two annotations are of an image that is not listed
    assert outcome.out.count("skipped  ") == (3 if lost else 1)  # else they go with it, silently
    assert message.split(": ")[-1] in outcome.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "not valid JSON"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no image is left"),
        ('{"images": [], "annotations": [], "categories": []}', "categories is empty"),
        ("[]", "no list 'images'"),
        ('{"a": NaN}', "NaN is not a number"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    assert message in run("--coco", tmp_path / "broken.json", "--out", tmp_path / "out.json").mistake()
    assert "cannot be read" in run("--coco", tmp_path / "none.json", "--out", tmp_path / "out.json").mistake()


def test_annotation_work_imports_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from p2p_loc.points import main; "
        f"assert main(['--coco', {str(folder / 'train.json')!r}, '--out', {str(tmp_path / 'a.json')!r}]) == 0; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
