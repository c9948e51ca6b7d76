"""Mistakes on the command line of ``p2p-train`` and in what it reads: one message, status 2, before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from p2p_runs import MODEL, REPORT, STEPS, done, train
from PIL import Image

from vireo.testing.runs import read

COCO = ["data=coco", *MODEL, *STEPS, "data.batch_size=2", "data.workers=0", "data.points.dist=uniform"]


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, lambda *_: None)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("refine.topkk=3", "refine.topk"),
        ("rouds=1", "rounds"),
        ("+experiment=tiny_persons", "tiny_person"),
        ("model=smal", "small"),
        ("refine.topk=0", "refine.topk: 0 detections of a point"),
        ("refine.topk=many", "refine.topk: 'many' is no such number"),
        ("refine.max_grow=null", "refine.max_grow: None is no such number"),
        ("refine.include_point=perhaps", "refine.include_point: 'perhaps' is neither"),
        ("refine.mode=minmax", "refine.mode: unknown mode 'minmax'. use weight_mean, mean"),
        ("refine.max_grow=-1", "refine.max_grow: a growth limit of -1"),
        ("refine.score_thr=1.5", "refine.score_thr: a score cut of 1.5"),
        ("refine.label=circle", "refine.label: unknown label 'circle'"),
        ("rounds=-1", "rounds: -1 is not a number from 0"),
        ("epochs=0", "epochs: 0 is not a number from 1"),
        ("eval_every=0", "eval_every: 0 is not a number from 1"),
        ("eval.taus=[]", "[] are no different positive numbers"),
        ("eval.taus=[0]", "tau"),
        ("eval.max_dets=many", "max_dets"),
        ("optim.lr=fast", "optim.lr: a rate of fast"),
        ("resume=always", "resume: 'always' is not a choice"),
        ("optim.name=lamb", "optim.name: unknown optimizer 'lamb'"),
        ("optim.lr=0", "optim.lr: a rate of 0"),
        ("optim.schedule=triangle", "unknown schedule 'triangle'"),
        ("model.name=yolo", "model.name: unknown network 'yolo'"),
        ("+model.depth=3", "model: the network small has no argument 'depth'"),
        ("model.widths=[5,7]", "model: the network small cannot be built (num_channels"),
        ("model.dilations=2", "model: the network small cannot be built ('int' object is not iterable)"),
        ("model.nms_iou=-1", "model.nms_iou: -1 is no number from 0 to 1"),
        ("model.score_threshold=high", "model.score_threshold: 'high' is no number"),
        ("model.max_detections=0", "model.max_detections: 0 is not a number from 1"),
        ("optim.milestones=5", "optim.milestones: 5 is no list of epochs"),
        ("optim.milestones=[a]", "optim.milestones: ['a'] is no list of epochs"),
        ("+eval.multi_match_neutral=maybe", "multi_match_neutral: 'maybe' is unknown"),
        ("data.eval_tile=[0,0]", "data.eval_tile, data.eval_overlap: tiles of [0, 0] pixels"),
        ("data.eval_tile=[64,64]", "data.eval_tile, data.eval_overlap: tiles of [64, 64] pixels"),
        ("data.eval_tile=32", "data.eval_tile: 32 is no width and height"),
        ("data.eval_batch_size=0", "data.eval_batch_size: 0 is not a number from 1"),
        ("data.flip=2", "data.flip: 2 is no probability"),
        ("data.labels=circles", "data.labels"),
        ("data.points.dist=normal", "dist"),
        ("data.pseudo_box=[0,16]", "pseudo_box"),
        ("run.strategy=ring", "run.strategy: unknown strategy 'ring'"),
        ("run.precision=8-wild", "precision=8-wild"),
    ],
)
def test_wrong_settings(tmp_path: Path, argument: str, words: str) -> None:
    message = train(f"output_dir={tmp_path}", argument).mistake()
    assert words in message
    assert not list(tmp_path.glob("**/*.safetensors"))


def coco(root: Path, **more: Any) -> Path:
    """Four pictures with two objects each, for training and evaluation."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    images, rows = [], []
    for number in range(1, 5):
        pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        rows += [
            {"id": 2 * number + k, "image_id": number, "category_id": 7, "bbox": [9.0 + 20 * k, 8.0, 10.0, 20.0]}
            | {"iscrowd": 0, "area": 200.0, **more}
            for k in range(2)
        ]
    content = {"images": images, "annotations": rows, "categories": [{"id": 7, "name": "person"}]}
    (root / "all.json").write_text(json.dumps(content))
    return root


def settings(root: Path) -> list[str]:
    images = [f"data.{part}_{kind}" for kind in ("images", "annotations") for part in ("train", "val")]
    names = ["images", "images", "all.json", "all.json"]
    return [*COCO, f"data.root={root}", *(f"{key}={name}" for key, name in zip(images, names))]


def test_a_folder_of_pictures_and_tiles(tmp_path: Path) -> None:
    """Tiles of training and of prediction; category ids stay."""
    root = coco(tmp_path / "data")
    tiles = ["data.tile=[40,48]", "data.overlap=[16,0]", "data.eval_tile=[40,48]", "data.eval_overlap=[16,0]"]
    folder = done(tmp_path / "run", *tiles, settings=settings(root))
    labels = read(folder / "labels" / "round_1.json")
    assert {len(image["corner"]) for image in labels["images"]} == {4}
    assert len(labels["images"]) > 4
    assert {row["category_id"] for row in read(folder / "detections" / "round_0.json")} == {7}
    assert read(folder / "classes.json") == [{"id": 7, "name": "person"}]
    tile_ids = {image["id"] for image in labels["images"]}
    assert {row["image_id"] for row in read(folder / "detections" / "round_0.json")} <= tile_ids


def test_nothing_to_train_on(tmp_path: Path) -> None:
    root = coco(tmp_path / "data", ignore=True)
    message = train(f"output_dir={tmp_path / 'run'}", settings=settings(root)).mistake()
    assert "all are ignored" in message
    done(tmp_path / "used", "data.drop_ignore=false", "rounds=0", settings=settings(root))


def test_no_data(tmp_path: Path) -> None:
    assert "data.root: no folder given" in train(f"output_dir={tmp_path}", settings=COCO).mistake()
    missing = train(f"output_dir={tmp_path}", f"data.root={tmp_path / 'no'}", settings=COCO).mistake()
    assert "no such folder" in missing


def test_damaged_rounds_are_named(tmp_path: Path) -> None:
    folder = done(tmp_path, "rounds=1")
    (folder / "detections" / "round_0.json").write_text("[{")
    message = train(f"output_dir={folder}", "rounds=2").mistake()
    assert "round_0.json: cannot be read" in message
    assert "remove it: it is made again" in message


def test_a_picture_that_is_cut_off_is_left_out_everywhere(tmp_path: Path) -> None:
    """Its header is whole, so that only decoding finds it: in training, in prediction, and in the pictures."""
    root = coco(tmp_path / "data")
    file = root / "images" / "1.png"
    file.write_bytes(file.read_bytes()[:2000])
    skip = ["data.on_error=skip", "gallery_images=4", "epochs=1"]
    folder = done(tmp_path / "run", *skip, settings=settings(root))
    assert read(folder / "metrics.json")["finished"]
    assert {row["image_id"] for row in read(folder / "detections" / "round_0.json")} == {2, 3, 4}
    names = sorted(path.name for path in (folder / "gallery").iterdir())
    assert names == [f"{kind}_{i:02d}.png" for kind in ("labels", "locations") for i in (1, 2, 3)]
    one = done(tmp_path / "one", *skip, "gallery_images=1", "rounds=0", settings=settings(root))  # the broken one
    assert not (one / "gallery").exists()
