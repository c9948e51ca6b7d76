"""Data configurations: generated, COCO and VOC; first labels; loaders; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from p2p_files import SIZE, coco_settings, write_json, write_people

from p2p_loc.annotations import PointAnnotations
from p2p_loc.coco_content import read_json
from p2p_loc.data import build_evaluation_set, build_loader, build_sets, build_training
from p2p_loc.points import main
from vireo.data import GeneratedShapes
from vireo.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people") / "set")


def settings(name: str, *changes: str) -> Any:
    with initialize_config_module("p2p_loc.conf", version_base=None):
        return compose(overrides=[f"+data={name}", *(f"data.{change}" for change in changes)]).data


def test_generated_people() -> None:
    data = settings("generated", "train_images=4", "val_images=3")
    training, val = build_sets(data)
    annotations = PointAnnotations.from_coco(training.content)
    assert training.classes == val.classes == ("person",)
    assert training.category_ids == (1,)
    assert annotations.true_boxes is not None
    inside = (annotations.points >= annotations.true_boxes[:, :2]) & (
        annotations.points <= annotations.true_boxes[:, 2:]
    )
    assert inside.all()
    sides = annotations.boxes[:, 2:] - annotations.boxes[:, :2]
    assert sides.max() == pytest.approx(16)
    assert training.statistics is not None
    assert training.statistics.mean_distance == pytest.approx(0.375, abs=0.1)
    assert (len(training.dataset(train=True)), len(val)) == (4, 3)
    assert torch.equal(training.dataset(train=True).load_image(2), training.dataset(train=False).load_image(2))
    again = build_training(data)
    assert again.content == training.content
    other = build_training(settings("generated", "train_images=4", "points.seed=1"))
    assert other.content["annotations"] != training.content["annotations"]


def test_labels_of_a_later_round() -> None:
    training = build_training(settings("generated", "train_images=2"))
    rows = [{**row, "bbox": [1, 2, 30, 40]} for row in training.content["annotations"]]
    dataset = training.dataset({**training.content, "annotations": rows}, train=True)
    assert dataset[1][1]["boxes"].unique(dim=0).tolist() == [[1, 2, 31, 42]]


def test_true_boxes_are_the_upper_bound() -> None:
    training = build_training(settings("generated", "train_images=3", "labels=boxes"))
    for row in training.content["annotations"]:
        assert row["bbox"] == row["true_bbox"]
        np.testing.assert_allclose(row["point"], np.add(row["bbox"][:2], np.divide(row["bbox"][2:], 2)), atol=1e-3)
    tiles = build_training(settings("generated", "train_images=3", "labels=boxes", "tile=[48,48]", "overlap=[8,8]"))
    assert len(tiles.content["images"]) == 3 * 9
    boxes = PointAnnotations.from_coco(tiles.content)
    assert (boxes.boxes[:, 2:] <= boxes.image_sizes).all()
    np.testing.assert_allclose(boxes.points, (boxes.boxes[:, :2] + boxes.boxes[:, 2:]) / 2, atol=2e-3)


def test_tiles_and_semi_supervision() -> None:
    data = settings("generated", "train_images=3", "tile=[48,48]", "overlap=[8,8]", "fully_ratio=0.5")
    training = build_training(data)
    rows = training.content["annotations"]
    full = [row for row in rows if row.get("is_fully")]
    assert len(full) == round(len(rows) / 2)
    assert all(row["bbox"] == row["true_bbox"] for row in full)
    tiles = training.dataset(train=False)
    assert len(tiles) == 27
    assert 0 < len(training.dataset(train=True)) < 27  # tiles without objects are not trained on
    for i in (0, 13, 26):
        left, top, right, bottom = tiles.corners[tiles.records[i].image_id]
        whole = tiles.images.load(tiles.records[i].file_name)
        assert torch.equal(tiles.load_image(i), whole[:, top:bottom, left:right])


def test_coco_and_a_file_of_p2p_points_agree(folder: Path, tmp_path: Path) -> None:
    training, val = build_sets(coco_settings(folder, pseudo_box=[12, 20]))
    written = tmp_path / "points.json"
    assert main(["--coco", str(folder / "train.json"), "--pseudo-box", "12", "20", "--out", str(written)]) == 0
    taken = build_training(coco_settings(folder, train_annotations=str(written), fully_ratio=0.5))
    assert taken.content["annotations"] == training.content["annotations"]  # fully_ratio does not apply
    assert taken.statistics is None
    assert len(taken.notes) == 1
    assert "do not apply" in taken.notes[0]
    content = json.loads(written.read_text())
    written.write_text(json.dumps({**content, "refinement": {}}))
    assert "refined before" in build_training(coco_settings(folder, train_annotations=str(written))).notes[1]
    with pytest.raises(InputError, match=r"data\.tile: .*p2p-points --tile"):
        build_training(coco_settings(folder, train_annotations=str(written), tile=[32, 32]))
    assert all("iscrowd" in row for row in val.truth["annotations"])
    assert val[0][0].shape == (3, *SIZE)


def test_voc(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "val")):
        GeneratedShapes(4, (64, 64), seed, object_size=(14, 30)).export(tmp_path, split)
    (tmp_path / "JPEGImages" / "train_000001.jpg").write_bytes(b"no picture")
    data = settings("voc", f"root={tmp_path}", "train_split=train", "val_split=val", "workers=0", "on_error=skip")
    training, val = build_sets(data)
    assert training.classes == val.classes == ("ellipse", "rectangle", "triangle")
    assert [row["file_name"] for row in training.content["images"]] == [f"train_{i:06d}.jpg" for i in (0, 2, 3)]
    assert len(training.skipped) == 1
    data.classes = ["triangle"]
    assert build_training(data).category_ids == (3,)
    data.on_error = "raise"
    with pytest.raises(InputError, match=r"train_000001\.jpg"):
        build_training(data)


def test_loader_batches() -> None:
    data = settings("generated", "train_images=6", "val_images=3", "batch_size=2", "eval_batch_size=2")
    training, val = build_sets(data)
    images, targets = next(iter(build_loader(training.dataset(train=True), data, train=True)))
    assert images.shape == (2, 3, 96, 96)
    assert {"boxes", "labels", "iscrowd", "image_id", "size", "orig_size", "scale"} <= set(targets[0])
    data.short_side, data.long_side = 48, 60
    found = [(len(images), images.shape[2:]) for images, _ in build_loader(val, data, train=False)]
    assert found == [(2, (64, 64)), (1, (64, 64))]
    resized = next(iter(build_loader(val, data, train=False)))[1][0]
    assert (resized["size"], resized["orig_size"], resized["scale"]) == ((48, 48), (96, 96), 0.5)
    data.long_side = None
    with pytest.raises(InputError, match="only one of"):
        build_loader(val, data, train=False)


def test_training_flips_half_and_evaluation_none() -> None:
    data = settings("generated", "train_images=16", "val_images=2", "batch_size=16")
    training, val = build_sets(data)
    plain = training.dataset(train=False)
    place = {record.image_id: i for i, record in enumerate(plain.records)}
    loader = build_loader(training.dataset(train=True), data, train=True)
    flipped = 0
    for epoch in range(2):
        for _, targets in loader.batches(epoch):
            flipped += sum(
                not torch.equal(target["boxes"], plain[place[target["image_id"]]][1]["boxes"]) for target in targets
            )
    assert 6 <= flipped <= 26
    _, targets = next(iter(build_loader(val, data, train=False)))
    assert torch.equal(targets[0]["boxes"], val[0][1]["boxes"])


def test_flags_of_the_truth_are_kept(folder: Path, tmp_path: Path) -> None:
    content = read_json(folder / "val.json")
    content["annotations"][0] |= {"ignore": True, "uncertain": True, "logo": False}
    content["annotations"][1]["bbox"][2] = 0
    data = coco_settings(folder, val_annotations=str(write_json(tmp_path / "val.json", content)))
    val = build_evaluation_set(data)
    assert val.truth["annotations"][0]["uncertain"] is True
    assert len(val.truth["annotations"]) == len(content["annotations"]) - 1
    assert val.notes == ["1 boxes without width or height left out of the evaluation set"]
    content["annotations"][2] = {key: content["annotations"][2][key] for key in ("id", "image_id", "category_id")}
    content["annotations"][2]["point"] = [3, 4]
    write_json(tmp_path / "val.json", content)
    with pytest.raises(InputError, match="evaluation set has no box"):
        build_evaluation_set(data)
    content["annotations"][2]["bbox"] = [0, 0, 11, 12]  # a label made from the point
    write_json(tmp_path / "val.json", content)
    with pytest.raises(InputError, match="evaluation set has no box"):
        build_evaluation_set(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "yolo"}, "unknown format"),
        ({"root": None}, "add data.root"),
        ({"root": "/nowhere"}, "no such folder"),
        ({"labels": "masks"}, "points or boxes"),
        ({"points": {"dist": "normal"}}, "points.dist"),
        ({"points": {"masks": True}}, "has no segmentation"),
        ({"pseudo_box": [0, 16]}, "not positive"),
        ({"pseudo_box": [16]}, "no width and height"),
        ({"pseudo_box": "median"}, "mean_size, mean_wh"),
        ({"tile": [64, 64], "overlap": [64, 0]}, "do not cover"),
        ({"tile": [64, 64], "overlap": [8, 8], "tile_policy": "random"}, "no policy"),
        ({"fully_ratio": 2}, "fully_ratio"),
        ({"classes": ["dog"]}, "no category 'dog'"),
        ({"check_images": "maybe"}, "headers, full or none"),
        ({"train_annotations": "none.json"}, "cannot be read"),
        ({"train_images": "none"}, "folder of images is missing"),
        ({"on_error": "ignore"}, "raise or skip"),
        ({"pseudo_box": 16}, "data.pseudo_box: 16 is no width and height"),
        ({"pseudo_box": [16, "a"]}, "data.pseudo_box: .* is no width and height"),
        ({"tile": 640}, "data.tile: 640 is not two whole numbers"),
        ({"tile": [64, 64.5]}, "data.tile: .* is not two whole numbers"),
        ({"tile": [64, 64], "overlap": None}, "data.overlap: None is not two"),
        ({"eval_tile": 32}, "data.eval_tile: 32 is not two"),
        ({"eval_tile": [0, 0]}, "data.eval_tile: .* is not two whole numbers from 1"),
        ({"points": "uniform"}, "data.points: 'uniform' is no group"),
        ({"points": {"sigmma": 1}}, "data.points.sigmma: there is no such setting"),
        ({"points": {"sigma": "abc"}}, "data.points.sigma: 'abc' is no number"),
        ({"points": {"mu": None}}, "data.points.mu: None is no number"),
        ({"points": {"size_range": None}}, "data.points.size_range: None is no number"),
        ({"points": {"at": 0.5}}, "data.points.at: 0.5 is no point"),
        ({"points": {"masks": "perhaps"}}, "data.points.masks: 'perhaps' is neither"),
        ({"points": {"seed": -1}}, "data.points.seed: -1 is no seed"),
        ({"fully_ratio": "abc"}, "data.fully_ratio: 'abc' is no number"),
        ({"min_gt_size": "abc"}, "data.min_gt_size: 'abc' is no number"),
        ({"short_side": "a", "long_side": 100}, "data.short_side: 'a' is no whole number"),
        ({"train_annotations": None}, "data.train_annotations: None is no name"),
        ({"train_images": None}, "data.train_images: None is no name"),
    ],
)
def test_settings_that_make_no_sense(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_training(coco_settings(**{"root": folder, **changes}))


@pytest.mark.parametrize("key", ["val_annotations", "val_images"])
def test_an_evaluation_set_is_needed(folder: Path, key: str) -> None:
    with pytest.raises(InputError, match=f"data.{key}: None is no name"):
        build_evaluation_set(coco_settings(folder, **{key: None}))


@pytest.mark.parametrize("change", ["image_size=96", "image_size=[96,a]", "train_images=many", "seed=null"])
def test_settings_of_generated_people(change: str) -> None:
    with pytest.raises(InputError, match=f"data.{change.split('=')[0]}: "):
        build_training(settings("generated", change))


def test_different_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    content = read_json(folder / "val.json")
    content["categories"] = [{"id": 1, "name": "boat"}]
    data = coco_settings(folder, val_annotations=str(write_json(tmp_path / "val.json", content)))
    with pytest.raises(InputError, match="differ from evaluation classes"):
        build_sets(data)


def test_nothing_to_train_on(folder: Path, tmp_path: Path) -> None:
    content = read_json(folder / "train.json")
    outside = {**content, "annotations": [{**row, "bbox": [900, 0, 5, 5]} for row in content["annotations"]]}
    data = coco_settings(folder, train_annotations=str(write_json(tmp_path / "train.json", outside)))
    with pytest.raises(InputError, match="no label is left"):
        build_training(data)
    ignored = {**content, "annotations": [{**row, "ignore": 1} for row in content["annotations"]]}
    write_json(tmp_path / "train.json", ignored)
    training = build_training(data)  # there are labels, which a run may still look at
    with pytest.raises(InputError, match="all are ignored"):
        training.dataset(train=True)


@pytest.mark.parametrize("name", ["tiny_person", "sea_person", "visdrone", "city_persons", "coco_person", "tiny_coco"])
def test_configurations_of_published_sets(name: str, folder: Path) -> None:
    data = settings(name)
    assert data.format == "coco"
    assert data.root is None
    files = coco_settings(folder)
    names = ("root", "train_images", "train_annotations", "val_images", "val_annotations")
    for key in names:
        data[key] = files[key]
    data.points.masks = False
    training, val = build_sets(data)  # the settings fit together
    assert len(training.dataset(train=True))
    assert len(val) == 3
