"""Classification data sets: image folders, generated classes, subsets and transforms."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vireo.data import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    Compose,
    GeneratedClasses,
    HorizontalFlip,
    ImageFolder,
    Loader,
    Normalize,
    RandomCrop,
    RandomErasing,
    imagenet_transforms,
    per_class,
    resize_images,
    stack_classification,
)
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

LABELS = [0] * 3 + [1] * 4 + [2] * 3  # of the images in ``folder``


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    height, width = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CIFAR-10 as JPEG files: train/<class>/NNNN.jpg, and some other formats."""
    for label, (name, count) in enumerate({"airplane": 3, "bird": 4, "cat": 3}.items()):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(count):
            picture(10 * label + number).save(tmp_path / "train" / name / f"{number:04d}.jpg", quality=75)
    (tmp_path / "train" / "bird" / "0003.jpg").unlink()
    picture(99).save(tmp_path / "train" / "bird" / "0003.PNG")
    (tmp_path / "test" / "airplane").mkdir(parents=True)
    return tmp_path


def cut(folder: Path, name: str) -> Path:
    """Cut a JPEG off in the middle: only its pixels are damaged."""
    path = folder / "train" / name
    path.write_bytes(path.read_bytes()[:-200])
    return path


# image folders


def test_image_folder(folder: Path) -> None:
    data = ImageFolder(folder)
    assert data.classes == ("airplane", "bird", "cat")
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == LABELS
    assert [data.image_path(i).name for i in (0, 3, 6)] == ["0000.jpg", "0000.jpg", "0003.PNG"]
    assert data.notes == data.skipped == []
    image, target = data[6]
    assert torch.equal(image, torch.from_numpy(np.array(picture(99))).permute(2, 0, 1))
    assert target == {"label": torch.tensor(1), "index": torch.tensor(6), "image_id": 6}
    assert target["label"].dtype == target["index"].dtype == torch.int64
    arrays = data.arrays()
    assert arrays.dtype == torch.uint8
    assert torch.equal(arrays, torch.stack([data[i][0] for i in range(10)]))


def test_foreign_files_are_noted(folder: Path) -> None:
    (folder / "train" / "readme.txt").write_text("")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "cat" / "labels.csv").write_text("")
    data = ImageFolder(folder)
    assert len(data) == 10
    assert data.classes == ("airplane", "bird", "cat")
    assert len(data.notes) == 1
    assert data.notes[0].startswith("3 entries")
    assert ".cache" in data.notes[0]


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("val", lambda _: None, r"val: there is no such split; .* has the folders: test, train"),
        ("val", lambda root: root.rename(root.parent / "moved"), r"val: there is no such split; .* has no folders"),
        ("test", lambda _: None, r"test/airplane: class without images"),
        ("test", lambda root: (root / "test" / "airplane").rmdir(), r"test: no class folders"),
    ],
)
def test_wrong_layout(folder: Path, split: str, change: Callable[[Path], object], message: str) -> None:
    root = folder / "data"
    root.mkdir()
    for name in ("train", "test"):
        (folder / name).rename(root / name)
    change(root)
    with pytest.raises(InputError, match=message):
        ImageFolder(root, split)


def test_wrong_arguments(folder: Path) -> None:
    with pytest.raises(InputError, match="image_size"):
        ImageFolder(folder, image_size=(0, 4))
    with pytest.raises(InputError, match="'ignore' is not a choice"):
        ImageFolder(folder, on_error="ignore")  # type: ignore[arg-type]


def test_a_damaged_image_is_named(folder: Path) -> None:
    path = cut(folder, "bird/0001.jpg")
    data = ImageFolder(folder)
    data.check_images()  # its header is whole
    for read in (lambda: data[4], data.arrays, lambda: data.check_images(decode=True)):
        with pytest.raises(InputError, match=str(path)):
            read()
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"{path}: image file is empty"):
        data.check_images()


@pytest.mark.parametrize("step", ["arrays", "check_images"])
def test_a_damaged_image_is_skipped(folder: Path, step: str) -> None:
    whole = ImageFolder(folder).arrays()
    cut(folder, "bird/0001.jpg")
    data = ImageFolder(folder, on_error="skip")
    if step == "check_images":
        data.check_images(decode=True)
    arrays = data.arrays()
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert torch.equal(arrays, whole[kept])
    assert data.labels.tolist() == [LABELS[i] for i in kept]
    assert len(data) == 9
    assert len(data.skipped) == 1
    assert "bird/0001.jpg" in data.skipped[0]
    assert data[4][1] == {"label": torch.tensor(1), "index": torch.tensor(4), "image_id": 5}
    assert torch.equal(data[4][0], whole[5])


def test_the_loader_skips_too(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut(folder, "bird/0001.jpg")
    with caplog.at_level(logging.ERROR, "vireo"):
        loader = Loader(
            ImageFolder(folder),
            batch_size=10,
            shuffle=False,
            device_transform=Compose(stack_classification),
            on_error="skip",
        )
        batches: list[Any] = list(loader)
    ((images, targets),) = batches
    assert images.shape == (9, 3, 32, 32)
    assert targets["index"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]  # as in the data set, whatever is skipped
    assert len(loader.skipped) == 1


def test_nothing_readable(folder: Path) -> None:
    data = ImageFolder(folder, on_error="skip").with_indices([4])
    cut(folder, "bird/0001.jpg")
    with pytest.raises(InputError, match=r"bird/0001.jpg.*no image can be read"):
        data.arrays()
    with pytest.raises(InputError, match="the data set is empty"):
        data.arrays()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_images_of_two_sizes(folder: Path, on_error: Any) -> None:
    picture(5, (20, 32)).save(folder / "train" / "cat" / "0001.jpg")
    with pytest.raises(InputError, match=r"cat/0001.jpg: image of 32x20 pixels among images of 32x32.*image_size"):
        ImageFolder(folder, on_error=on_error).arrays()
    data = ImageFolder(folder, image_size=(16, 16))
    arrays = data.arrays()
    assert arrays.shape == (10, 3, 16, 16)
    assert torch.equal(arrays[0], resize_images(ImageFolder(folder)[0][0], (16, 16)))


def test_resize_by_whole_factors_is_the_rounded_mean() -> None:
    images = torch.randint(256, (5, 3, 12, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = images.view(5, 3, 4, 3, 4, 2).double().mean((3, 5))
    assert torch.equal(resize_images(images, (4, 4)), (boxes + 0.5).floor().to(torch.uint8))
    assert resize_images(images, (12, 8)) is images


@pytest.mark.parametrize("size", [(5, 4), (24, 24)])
def test_resize_otherwise_is_smooth(size: tuple[int, int]) -> None:
    ramp = torch.linspace(0, 255, 12).view(1, 12, 1).expand(3, 12, 8).to(torch.uint8)
    resized = resize_images(ramp, size)
    assert resized.shape == (3, *size)
    assert resized.dtype == torch.uint8
    assert (resized[0, :, 0].int().diff() >= 0).all()


# subsets


def test_subsets_renumber_and_remember(folder: Path) -> None:
    data = ImageFolder(folder)
    subset = data.with_indices([9, 2, 4]).with_indices([2, 0])
    assert isinstance(subset, ImageFolder)
    assert subset.labels.tolist() == [1, 2]
    assert [subset[i][1]["index"].item() for i in range(2)] == [0, 1]
    assert [subset[i][1]["image_id"] for i in range(2)] == [4, 9]
    assert torch.equal(subset.arrays(), data.arrays()[[4, 9]])
    assert len(data) == 10


def test_per_class() -> None:
    data = GeneratedClasses(40, (16, 16), num_classes=4)
    assert per_class(data, 3).sources.tolist() == list(range(12))
    drawn = [per_class(data, 3, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].sources.tolist() == drawn[1].sources.tolist() != drawn[2].sources.tolist()
    assert drawn[0].sources.tolist() == sorted(set(drawn[0].sources.tolist()))
    assert np.bincount(drawn[0].labels).tolist() == [3] * 4
    for count in (0, 11):
        with pytest.raises(InputError, match=rf"{count} images per class cannot be had: class 'striped disc' has 10"):
            per_class(data, count)


# generated classes


def test_generated_pictures_depend_on_seed_and_index_alone() -> None:
    data = GeneratedClasses(300, seed=4)
    arrays = data.arrays()
    assert arrays.shape == (300, 3, 32, 32)
    assert torch.equal(GeneratedClasses(21, seed=4).arrays(), arrays[:21])
    assert torch.equal(data[270][0], arrays[270])
    assert torch.equal(data.with_indices([270, 3]).arrays(), arrays[[270, 3]])
    assert not torch.equal(GeneratedClasses(21, seed=5).arrays(), arrays[:21])
    assert data.labels.tolist() == [i % 10 for i in range(300)]
    assert len(set(data.classes)) == 10


def test_generated_classes_can_be_told_apart() -> None:
    """Without noise even the spectra of plain pixels tell a striped figure from a plain one, far above chance."""

    def spectra(seed: int) -> tuple[Tensor, np.ndarray]:
        data = GeneratedClasses(600, seed=seed, num_classes=15, noise=0.0)
        grey = data.arrays().float().mean(1)
        power = torch.fft.rfft2(grey - grey.mean((1, 2), keepdim=True)).abs().log1p().flatten(1)
        return power / power.norm(dim=1, keepdim=True), data.labels

    (train, labels), (test, expected) = spectra(0), spectra(1)
    nearest = labels[(test @ train.T).argmax(1).numpy()]
    assert (nearest // 5 == expected // 5).mean() > 0.6
    assert (nearest == expected).mean() > 2 / 15


@pytest.mark.parametrize(
    "arguments",
    [
        {"length": 0},
        {"length": 9, "image_size": (32, 15)},
        {"length": 9, "seed": -1},
        {"length": 9, "num_classes": 1},
        {"length": 9, "num_classes": 16},
        {"length": 9, "noise": -1.0},
    ],
)
def test_generated_classes_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"GeneratedClasses: {list(arguments)[-1]}"):
        GeneratedClasses(**arguments)


# transforms


def batch(count: int = 64, size: tuple[int, int] = (12, 10)) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(1, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    return images, {"key": torch.randint(2**62, (count,), generator=generator), "label": torch.zeros(count)}


def test_random_crop() -> None:
    images, targets = batch(200)
    before = images.clone()
    cropped, same = RandomCrop(2, fill=0)(images, targets)
    assert same is targets
    assert torch.equal(images, before)
    padded = torch.nn.functional.pad(images, [2] * 4)
    places = []
    for image, frame in zip(cropped, padded):
        windows = {(y, x): frame[:, y : y + 12, x : x + 10] for y in range(5) for x in range(5)}
        places.append([place for place, window in windows.items() if torch.equal(window, image)])
    assert all(len(place) == 1 for place in places)
    assert len({place[0] for place in places}) == 25  # every place occurs
    assert (RandomCrop(3, fill=7)(images.fill_(7), targets)[0] == 7).all()


@pytest.mark.parametrize(
    ("padding", "size", "places"), [(0, (9, 7), 16), (1, (12, 10), 9), (1, (11, 12), 4), (1, (14, 12), 1)]
)
def test_random_crop_to_a_size(padding: int, size: tuple[int, int], places: int) -> None:
    images, targets = batch(200)
    before = images.clone()
    cropped, _ = RandomCrop(padding, size=size)(images, targets)
    assert cropped.shape == (200, 3, *size)
    assert torch.equal(images, before)
    padded = torch.nn.functional.pad(images, [padding] * 4)
    rows, columns = (range(n - cut + 1) for n, cut in zip(padded.shape[-2:], size))
    seen = [
        [(y, x) for y in rows for x in columns if torch.equal(frame[:, y : y + size[0], x : x + size[1]], image)]
        for image, frame in zip(cropped, padded)
    ]
    assert all(len(place) == 1 for place in seen)
    assert len({place[0] for place in seen}) == places  # every place occurs


def test_horizontal_flip() -> None:
    images, targets = batch(200)
    flipped, _ = HorizontalFlip()(images, targets)
    turned = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (turned ^ (flipped == images).flatten(1).all(1)).all()
    assert 70 < turned.sum() < 130
    assert torch.equal(HorizontalFlip(0.0)(images, targets)[0], images)
    assert torch.equal(HorizontalFlip(1.0)(images, targets)[0], images.flip(-1))


def test_normalize() -> None:
    images, targets = batch()
    expected = torch.from_numpy(
        (images.numpy().transpose(0, 2, 3, 1) / 255 - [0.4914, 0.4822, 0.4465]) / [0.2023, 0.1994, 0.2010]
    )
    for given in (images, images.float()):
        before = given.clone()
        normal, _ = Normalize(CIFAR10_MEAN, CIFAR10_STD)(given, targets)
        assert normal.dtype == torch.float32
        torch.testing.assert_close(normal.double(), expected.permute(0, 3, 1, 2), atol=1e-5, rtol=0)
        assert torch.equal(given, before)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    images, targets = batch()
    augment = Compose(RandomCrop(size=(9, 9)), HorizontalFlip(), Normalize(), RandomErasing(0.5))
    whole, _ = augment(images, targets)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))[:5]
    part, _ = augment(images[order], {"key": targets["key"][order]})
    assert torch.equal(part, whole[order])


def test_wrong_transform_arguments() -> None:
    with pytest.raises(InputError, match="padding -1 is negative"):
        RandomCrop(-1)
    for p in (-0.1, 1.5):
        with pytest.raises(InputError, match="is no probability"):
            HorizontalFlip(p)
    with pytest.raises(InputError, match=r"size \(0, 4\) is not positive"):
        RandomCrop(0, size=(0, 4))
    images, targets = batch()
    assert RandomCrop(0)(images, targets)[0] is images
    with pytest.raises(InputError, match=r"window of \(12, 12\) \(h, w\) in images of \(12, 10\)"):
        RandomCrop(0, size=(12, 12))(images, targets)


@pytest.mark.parametrize("train", [True, False])
def test_imagenet_transforms(folder: Path, train: bool) -> None:
    def passes(workers: int) -> Tensor:
        loader = Loader(
            ImageFolder(folder, image_size=(60, 45)),
            batch_size=10,
            shuffle=False,
            transform=imagenet_transforms(train, size=28),
            device_transform=Compose(stack_classification),
            workers=workers,
        )
        return torch.cat([images for epoch in (0, 1) for images, _ in loader.batches(epoch)])

    images = passes(0)
    assert images.shape == (20, 3, 28, 28)
    assert images.dtype == torch.uint8
    assert torch.equal(images[:10], images[10:]) != train  # each epoch draws anew in training
    assert torch.equal(images, passes(1))
