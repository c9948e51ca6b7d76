"""Segmentation data: image and label folders, what is wrong with them, transforms and the loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from vireo.data import (
    GeneratedSegmentation,
    ImageLabelFolders,
    RandomScaledCrop,
    ResizeImage,
    StackSegmentation,
    segmentation_loader,
    segmentation_set,
)
from vireo.data.random import seeded
from vireo.errors import InputError

CLASSES = ("ant", "bee", "cat")
SETTINGS = OmegaConf.create(
    {
        "crop": [32, 48],
        "short_side": 40,
        "long_side": 160,
        "ratio": [0.5, 2.0],
        "max_share": 0.75,
        "flip": 0.5,
        "distort": True,
        "batch_size": 4,
        "eval_batch_size": 2,
        "workers": 0,
        "on_error": "raise",
    }
)
HERE: dict[str, Any] = {"device": "cpu", "rank": 0, "world_size": 1, "seed": 0}


def write(root: Path, folder: str, number: int = 4, greatest: int = 3) -> Path:
    """Images and label maps 0 .. greatest of 40 x 50 pixels."""
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind / folder).mkdir(parents=True)
    for i in range(number):
        labels = generator.integers(0, greatest + 1, (5, 5), dtype=np.uint8).repeat(8, 0).repeat(10, 1)
        Image.fromarray(labels).save(root / "labels" / folder / f"{i:02d}.png")
        Image.fromarray(np.stack([labels * 40] * 3, -1)).save(root / "images" / folder / f"{i:02d}.jpg", quality=95)
    return root


def folders(root: Path, **options: Any) -> ImageLabelFolders:
    return ImageLabelFolders(root, "images/train", "labels/train", CLASSES, **{"ignore": (3,), **options})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write(tmp_path, "train")


def test_images_and_labels(files: Path) -> None:
    dataset = folders(files)
    image, target = dataset[2]
    raw = np.asarray(Image.open(files / "labels/train/02.png"))
    assert len(dataset) == 4
    assert image.shape == (3, 40, 50)
    assert target["labels"].dtype == torch.uint8
    assert np.array_equal(target["labels"].numpy(), np.where(raw == 3, 255, raw))
    assert (int(target["index"]), target["image_id"]) == (2, 2)
    part = dataset.with_indices([3, 1])
    assert torch.equal(part[1][1]["labels"], dataset[1][1]["labels"])
    assert (int(part[1][1]["index"]), part[1][1]["image_id"]) == (1, 1)


def test_zero_may_be_what_does_not_count(files: Path) -> None:
    labels = folders(files, reduce_zero_label=True, ignore=())[0][1]["labels"].numpy()
    raw = np.asarray(Image.open(files / "labels/train/00.png"))
    assert np.array_equal(labels, np.where(raw == 0, 255, raw - 1))


def test_layouts(tmp_path: Path) -> None:
    camvid = ImageLabelFolders.camvid(write(tmp_path / "camvid", "val", greatest=11), "val")
    assert (len(camvid), len(camvid.classes)) == (4, 11)
    ade = write(tmp_path / "ade", "training")
    (ade / "labels").rename(ade / "annotations")
    dataset = ImageLabelFolders.ade20k(ade, "training")
    assert (len(dataset.classes), dataset.classes[0]) == (150, "class 1")
    assert set(dataset[0][1]["labels"].unique().tolist()) <= {0, 1, 2, 255}
    lines = ["Idx\tRatio\tTrain\tVal\tName", *(f"{i}\t0.1\t1\t1\tname {i}, other" for i in range(1, 151))]
    (ade / "objectInfo150.txt").write_text("\n".join(lines))
    assert ImageLabelFolders.ade20k(ade, "training").classes[149] == "name 150"
    (ade / "objectInfo150.txt").write_text("\n".join(lines[:9]))
    with pytest.raises(InputError, match="names 8 classes"):
        ImageLabelFolders.ade20k(ade, "training")


def test_palettes_and_sixteen_bits_hold_indices_too(files: Path) -> None:
    path = files / "labels/train/00.png"
    raw = np.asarray(Image.open(path))
    expected = folders(files)[0][1]["labels"]
    coloured = Image.fromarray(raw, mode="P")
    coloured.putpalette(list(range(255, -1, -1)) * 3)
    coloured.save(path)
    assert torch.equal(folders(files)[0][1]["labels"], expected)
    Image.fromarray(raw.astype(np.uint16)).save(path)
    assert torch.equal(folders(files)[0][1]["labels"], expected)


def _replace(name: str, pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(pixels).save(root / name)


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no label map": (lambda root: (root / "labels/train/01.png").unlink(), r"01\.jpg: there is no label map 01\.png"),
    "no image": (lambda root: (root / "images/train/01.jpg").unlink(), r"01\.png: there is no image 01"),
    "size": (
        _replace("labels/train/01.png", np.zeros((40, 40), np.uint8)),
        r"01\.png: label map is 40x40 pixels, its image 50x40",
    ),
    "colours": (
        _replace("labels/train/01.png", np.zeros((40, 50, 3), np.uint8)),
        r"01\.png: label map has 3 channels: colours",
    ),
    "unknown label": (
        _replace("labels/train/01.png", np.full((40, 50), 9, np.uint8)),
        r"01\.png: label 9 is none of the 3 classes",
    ),
    "great label": (
        _replace("labels/train/01.png", np.full((40, 50), 900, np.uint16)),
        r"01\.png: label 900 is none of the 3 classes",
    ),
    "nothing counts": (
        _replace("labels/train/01.png", np.full((40, 50), 3, np.uint8)),
        r"01\.png: label map has no pixel that counts",
    ),
    "cut off": (
        lambda root: (root / "labels/train/01.png").write_bytes((root / "labels/train/01.png").read_bytes()[:60]),
        r"01\.png: label map cannot be decoded",
    ),
    "no picture": (lambda root: (root / "labels/train/01.png").write_bytes(b"labels"), r"01\.png"),
    "damaged image": (lambda root: (root / "images/train/01.jpg").write_bytes(b"\xff\xd8\xff"), r"01\.jpg"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_files_are_named_or_skipped(files: Path, mistake: str) -> None:
    spoil, message = MISTAKES[mistake]
    spoil(files)
    with pytest.raises(InputError, match=message):
        folders(files).check_images(decode=True)
    dataset = folders(files, on_error="skip")
    dataset.check_images(decode=True)
    assert len(dataset) == 3
    assert len(dataset.skipped) == 1
    assert "01" in dataset.skipped[0]
    assert [dataset.image_path(i).stem for i in range(3)] == ["00", "02", "03"]


def test_headers_alone_find_another_size(files: Path) -> None:
    MISTAKES["size"][0](files)
    with pytest.raises(InputError, match="label map is 40x40"):
        folders(files).check_images()


def test_a_bad_sample_is_skipped_by_the_loader(files: Path) -> None:
    MISTAKES["unknown label"][0](files)
    loader: Any = segmentation_loader(
        folders(files, on_error="skip"), OmegaConf.merge(SETTINGS, {"on_error": "skip"}), True, **HERE
    )
    ((images, targets),) = loader.batches(0)
    assert len(images) == 4
    assert sorted(targets["index"].tolist()) in ([0, 2, 2, 3], [0, 2, 3, 3])
    assert len(loader.skipped) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "labels").rename(root / "maps"), "there is no such folder"),
        (lambda root: [path.unlink() for path in (root / "labels/train").iterdir()], "no label map|no image has"),
    ],
)
def test_folders_that_do_not_fit(files: Path, change: Callable[[Path], Any], message: str) -> None:
    change(files)
    with pytest.raises(InputError, match=message):
        folders(files)


def test_too_many_classes(files: Path) -> None:
    with pytest.raises(InputError, match="256 classes"):
        ImageLabelFolders(files, "images/train", "labels/train", ["x"] * 256)


def test_generated_pictures() -> None:
    dataset = GeneratedSegmentation(3, (48, 64), seed=5, object_size=(16, 30))
    image, target = dataset[1]
    assert image.shape == (3, 48, 64)
    assert dataset.classes == ("background", "ellipse", "rectangle", "triangle")
    assert torch.equal(target["labels"], dataset.shapes.semantic(1)[1])
    assert torch.equal(dataset.with_indices([1])[0][0], image)


def coordinates(height: int, width: int) -> torch.Tensor:
    """An image whose first two channels are rows and columns."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, rows * 0]).to(torch.uint8)


def test_labels_stay_on_their_pixels() -> None:
    """Labels made of the image's own coordinates, after scaling, cropping and flipping."""
    image = coordinates(120, 160)
    labels = (image[0] // 20 * 8 + image[1] // 20).to(torch.uint8)
    transform = RandomScaledCrop((64, 80), 120, 400)
    shapes = set()
    for key in range(30):
        with seeded(key):
            cut, target = transform(image, {"labels": labels})
        rows, columns = cut[0].float(), cut[1].float()
        inner = ((rows % 20 - 10).abs() < 6) & ((columns % 20 - 10).abs() < 6)  # away from borders of the cells
        assert inner.any()
        assert torch.equal(target["labels"][inner], (rows // 20 * 8 + columns // 20).to(torch.uint8)[inner])
        shapes.add(tuple(cut.shape))
    assert (3, 64, 80) in shapes
    assert len(shapes) > 1  # some are smaller


def test_a_window_of_one_class_is_drawn_again() -> None:
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[:, 32:] = 1
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    shares = {}
    for share in (0.75, 1.0):
        transform, greatest = RandomScaledCrop((16, 16), 64, 64, ratio=(1, 1), max_share=share), []
        for key in range(40):
            with seeded(key):
                found = transform(image, {"labels": labels})[1]["labels"]
            greatest.append(float(found.flatten().bincount().max() / found.numel()))
        shares[share] = sum(s < 0.75 for s in greatest)
    assert shares[1.0] < 15
    assert shares[0.75] > 25


@pytest.mark.parametrize(
    "options", [{"size": (0, 4)}, {"ratio": (2.0, 0.5)}, {"max_share": 0.0}, {"short": 0}, {"ratio": (0.0, 1.0)}]
)
def test_crops_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RandomScaledCrop(**{"size": (8, 8), "short": 8, "long": 8, **options})


def test_padding_does_not_count() -> None:
    image, labels = torch.full((3, 4, 6), 200, dtype=torch.uint8), torch.ones(4, 6, dtype=torch.uint8)
    batch, targets = StackSegmentation((8, 8), mean=(100, 100, 100), std=(50, 50, 50))(
        [image, image[:, :2]], [{"labels": labels, "key": torch.tensor(i)} for i in range(2)]
    )
    assert batch.shape == (2, 3, 8, 8)
    assert (batch[0, :, :4, :6] == 2).all()
    assert batch[0].sum() == 2 * 3 * 24
    assert targets["labels"].tolist()[0] == [[1] * 6 + [255] * 2] * 4 + [[255] * 8] * 4
    assert targets["key"].tolist() == [0, 1]


def test_evaluation_keeps_the_labels_size() -> None:
    image, target = ResizeImage(32, 100)(coordinates(64, 96), {"labels": torch.zeros(64, 96, dtype=torch.uint8)})
    assert image.shape == (3, 32, 48)
    assert target["labels"].shape == (64, 96)


def test_batches(files: Path) -> None:
    """Same for any number of workers; another epoch is another batch."""
    dataset = folders(files)
    batches = {}
    for workers in (0, 2):
        loader: Any = segmentation_loader(dataset, OmegaConf.merge(SETTINGS, {"workers": workers}), True, **HERE)
        batches[workers] = [next(iter(loader.batches(epoch))) for epoch in (0, 1)]
    (images, targets), (later, _) = batches[0]
    assert images.shape == (4, 3, 32, 48)
    assert targets["labels"].shape == (4, 32, 48)
    assert not torch.equal(images, later)
    for (a, b), (c, d) in zip(batches[0], batches[2]):
        assert torch.equal(a, c)
        assert all(torch.equal(b[name], d[name]) for name in b)
    evaluation: Any = segmentation_loader(dataset, SETTINGS, False, **HERE)
    images, targets = next(iter(evaluation.batches(0)))
    assert [tuple(image.shape) for image in images] == [(3, 40, 50)] * 2
    assert targets[0]["labels"].shape == (40, 50)


FILES = {"root": None, "train_split": "train", "val_split": "train", "on_error": "raise", "check_images": "full"}
OWN = {"images": "images", "labels": "labels", "classes": list(CLASSES), "reduce_zero_label": False, "ignore": [3]}


def test_sets_of_a_configuration(files: Path) -> None:
    settings = {"format": "generated", "seed": 0, "train_images": 3, "val_images": 2, "image_size": [48, 64]}
    data = OmegaConf.create({**settings, "object_size": [12, 20], "class_colours": True})
    train, val = (segmentation_set(data, train=train) for train in (True, False))
    assert (len(train), len(val)) == (3, 2)
    assert not torch.equal(train[0][0], val[0][0])
    own = OmegaConf.create({**FILES, **OWN, "format": "folders", "root": str(files)})
    assert segmentation_set(own, train=True).classes == CLASSES
    camvid = OmegaConf.create({**FILES, "format": "camvid", "root": str(files)})
    assert len(segmentation_set(camvid, train=False).classes) == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "voc"}, "unknown format 'voc'"),
        ({"root": None}, r"data\.root"),
        ({"classes": []}, r"data\.classes"),
        ({"check_images": "some"}, "'some' is not a choice"),
        ({"train_split": "trainval"}, "there is no such folder"),
    ],
)
def test_configurations_that_cannot_be_used(files: Path, change: dict[str, Any], message: str) -> None:
    data = OmegaConf.create({**FILES, **OWN, "format": "folders", "root": str(files), **change})
    with pytest.raises(InputError, match=message):
        segmentation_set(data, train=True)
