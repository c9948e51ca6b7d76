"""The data of a run: noise while reading equals noise from a file, and the formats of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from ssd_det.data import build_datasets, build_loader, with_noise
from ssd_det.noise import make_noisy_coco, make_noisy_voc
from vireo.data import CocoDetection, DetectionDataset, GeneratedShapes, VocDetection
from vireo.errors import InputError


def configuration(*overrides: str) -> Any:
    with initialize_config_module("ssd_det.conf", version_base="1.3"):
        return compose("train", list(overrides)).data


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and six evaluation pictures as files, in both formats."""
    folder = tmp_path_factory.mktemp("shapes")
    for split, length, seed in (("train", 12, 0), ("val", 6, 1)):
        GeneratedShapes(length, (64, 80), seed, object_size=(12, 40)).export(folder, split)
    return folder


def same_boxes(a: DetectionDataset, b: DetectionDataset, tolerance: float = 1e-4) -> None:
    assert len(a) == len(b)
    for left, right in zip(a.records, b.records):
        assert left.file_name == right.file_name
        assert np.array_equal(left.ids, right.ids)
        assert np.array_equal(left.labels, right.labels)
        assert np.abs(left.boxes - right.boxes).max() < tolerance
        assert left.true_boxes is not None
        assert right.true_boxes is not None
        assert np.abs(left.true_boxes - right.true_boxes).max() < tolerance


def test_noise_while_reading_equals_the_file_of_ssd_det_noise(exported: Path, tmp_path: Path) -> None:
    clean = exported / "annotations" / "train.json"
    make_noisy_coco(clean, tmp_path / "noisy.json", 0.4)
    images = exported / "JPEGImages"
    from_file = CocoDetection(images, tmp_path / "noisy.json")
    reading = with_noise(CocoDetection(images, clean), 0.4)
    same_boxes(from_file, reading)
    moved = [np.abs(r.boxes - r.true_boxes).max() for r in reading.records if r.true_boxes is not None]
    assert min(moved) > 1
    image, target = reading[0]
    assert image.shape == (3, 64, 80)
    assert torch.equal(target["true_boxes"], CocoDetection(images, clean)[0][1]["boxes"])


def test_noise_depends_on_the_seed_alone() -> None:
    shapes = GeneratedShapes(5, (64, 64), object_size=(12, 30))
    same_boxes(with_noise(shapes, 0.3), with_noise(shapes, 0.3), 1e-9)
    a, b = with_noise(shapes, 0.3), with_noise(shapes, 0.3, seed=46)
    assert not np.array_equal(a.records[0].boxes, b.records[0].boxes)
    assert shapes.records[0].true_boxes is None  # the data set itself is unchanged


def test_noisy_boxes_are_not_perturbed_again() -> None:
    noisy = with_noise(GeneratedShapes(2, (64, 64), object_size=(12, 30)), 0.2)
    with pytest.raises(InputError, match=r"data\.noise=0"):
        with_noise(noisy, 0.2)


def test_generated_data_of_the_default_configuration() -> None:
    train, val = build_datasets(configuration("data.train_images=6", "data.val_images=3"))
    assert (len(train), len(val)) == (6, 3)
    assert all(record.true_boxes is not None for record in train.records)
    assert all(record.true_boxes is None for record in val.records)
    assert not np.array_equal(train.records[0].true_boxes, val.records[0].boxes)  # type: ignore[arg-type]


def test_coco_configuration(exported: Path) -> None:
    root = [f"data.root={exported}", "data.train_images=JPEGImages", "data.val_images=JPEGImages"]
    files = ["data.train_annotations=annotations/train.json", "data.val_annotations=annotations/val.json"]
    train, val = build_datasets(configuration("data=coco", *root, *files, "data.noise=0.2"))
    assert (len(train), len(val)) == (12, 6)
    assert train.records[0].true_boxes is not None
    assert val.records[0].true_boxes is None


def test_voc_configuration_and_its_noisy_file(exported: Path) -> None:
    root = ["data=voc", f"data.root={exported}", "data.train_split=train", "data.val_split=val"]
    reading, val = build_datasets(configuration(*root, "data.noise=0.4"))
    make_noisy_voc(exported, "train", exported / "noisy40.json", 0.4)
    from_file, again = build_datasets(configuration(*root, "data.train_annotations=noisy40.json"))  # relative to root
    assert from_file.classes == val.classes == again.classes
    same_boxes(from_file, reading)
    assert isinstance(val, VocDetection)


def test_classes_of_training_and_evaluation_must_agree(exported: Path, tmp_path: Path) -> None:
    text = (exported / "annotations" / "val.json").read_text()
    (exported / "annotations" / "other.json").write_text(text.replace('"ellipse"', '"circle"'))
    root = [f"data.root={exported}", "data.train_images=JPEGImages", "data.val_images=JPEGImages"]
    files = ["data.train_annotations=annotations/train.json", "data.val_annotations=annotations/other.json"]
    with pytest.raises(InputError, match="differ from evaluation classes"):
        build_datasets(configuration("data=coco", *root, *files))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=coco"], "data.root: no folder given"),
        (["data=coco", "data.root=/no/such/folder"], "no such folder"),
        (["data.format=yolo"], "use generated, coco or voc"),
        (["data.noise=1.5"], "noise level 1.5"),
    ],
)
def test_unfit_configurations(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build_datasets(configuration(*overrides))
    assert message in str(caught.value)


def test_batches_of_training_and_evaluation() -> None:
    data = configuration("data.train_images=11", "data.val_images=5", "data.batch_size=4", "data.eval_batch_size=2")
    train, val = build_datasets(data)
    here: dict[str, Any] = {"seed": 0, "device": "cpu"}
    batches = list(build_loader(train, data, train=True, **here).batches(0))
    assert [len(images) for images, _ in batches] == [4, 4]  # the rest is dropped
    images, targets = batches[0]
    assert images.dtype == torch.float32
    assert images.shape[-2:] == (96, 96)
    assert all({"boxes", "labels", "true_boxes", "iscrowd", "key", "size"} <= set(t) for t in targets)
    evaluated = [int(t["image_id"]) for _, ts in build_loader(val, data, train=False, **here).batches(0) for t in ts]
    assert evaluated == [record.image_id for record in val.records]


def test_two_processes_share_the_batches_of_one() -> None:
    data = configuration("data.train_images=8", "data.val_images=2", "data.batch_size=4")
    train, _ = build_datasets(data)
    whole = list(build_loader(train, data, train=True, seed=0, device="cpu").batches(1))
    halves = [
        list(build_loader(train, data, train=True, seed=0, device="cpu", rank=r, world_size=2).batches(1))
        for r in range(2)
    ]
    for i, (_, targets) in enumerate(whole):
        ids = sorted(int(t["image_id"]) for t in targets)
        assert ids == sorted(int(t["image_id"]) for half in halves for t in half[i][1])
