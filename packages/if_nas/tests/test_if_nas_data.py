"""Data sets, their subsets, and the batches made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from if_nas_runs import write_cifar, write_folders
from torch.nn import functional as F

from if_nas.cutout import Cutout
from if_nas.data import build_dataset, build_datasets, build_loader
from if_nas.subsets import ResizedCifar, named_classes, read_class_names
from vireo.data import ImageFolder
from vireo.errors import InputError

CLASSES = ("ant", "bee", "cat", "dog")
IMAGENET = ["data=imagenet", "data.crop_size=32", "data.batch_size=4", "data.workers=0"]


def data_of(*overrides: str) -> Any:
    with initialize_config_module("if_nas.conf", version_base="1.3"):
        return compose("train", list(overrides)).data


def epoch(data: Any, number: int = 0, **here: Any) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    train_set, _ = build_datasets(data)
    loader: Any = build_loader(train_set, data, train=True, **here)
    return list(loader.batches(number))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("folders"), {"train": 4, "val": 2}, CLASSES, vary=True, size=32)


def test_generated_pictures() -> None:
    data = data_of("data.train_images=40", "data.val_images=20", "data.batch_size=16")
    train_set, val_set = build_datasets(data)
    assert (len(train_set), len(val_set)) == (40, 20)
    assert not torch.equal(train_set.arrays()[:20], val_set.arrays())
    batches = epoch(data)
    assert len(batches) == 2  # the third would not be full
    for images, targets in batches:
        assert (images.shape, images.dtype) == ((16, 3, 16, 16), torch.float32)
        assert {"label", "index", "key"} <= targets.keys()
    loader: Any = build_loader(val_set, data, train=False)
    assert [index for _, targets in loader.batches(0) for index in targets["index"].tolist()] == list(range(20))


def test_two_processes_share_the_batches_of_one() -> None:
    data = data_of("data.train_images=40", "data.val_images=8", "data.batch_size=16", "data.cutout=6")
    whole = epoch(data, 3, seed=5)
    parts = [epoch(data, 3, seed=5, rank=rank, world_size=2) for rank in (0, 1)]
    for (images, targets), *halves in zip(whole, *parts):
        assert torch.equal(images, torch.cat([half for half, _ in halves]))
        assert torch.equal(targets["index"], torch.cat([half["index"] for _, half in halves]))


def test_cutout_blanks_squares_around_uniform_pixels() -> None:
    keys = torch.arange(4000) * 7919
    images, _ = Cutout(6)(torch.ones(4000, 2, 12, 10), {"key": keys})
    assert torch.equal(images[:, 0], images[:, 1])
    blank = images[:, 0] == 0
    rows, columns = blank.any(2).sum(1), blank.any(1).sum(1)
    assert torch.equal(blank.sum((1, 2)), rows * columns)  # rectangles, clipped at the borders
    assert set(rows.tolist()) == set(columns.tolist()) == {3, 4, 5, 6}
    # a row of 12 is blanked by centres from 2 above to 3 below, as far as there are such rows
    wanted = torch.tensor([len([c for c in range(12) if -3 <= row - c <= 2]) / 12 for row in range(12)])
    torch.testing.assert_close(blank.any(2).float().mean(0), wanted, atol=0.03, rtol=0)
    again, _ = Cutout(6)(torch.ones(2, 2, 12, 10), {"key": keys[[7, 3]]})
    assert torch.equal(again, images[[7, 3]])


def test_cutout_is_for_training_only() -> None:
    data = data_of("data.train_images=16", "data.val_images=16", "data.batch_size=16", "data.cutout=6")
    _, val_set = build_datasets(data)
    loader: Any = build_loader(val_set, data, train=False)
    ((shown, _),) = loader.batches(0)
    ((trained, _),) = epoch(data)
    assert not (shown == 0).all(1).flatten(1).any()
    assert (trained == 0).all(1).flatten(1).any(1).all()


def test_cifar_at_another_size(tmp_path: Path) -> None:
    root = write_cifar(tmp_path)
    whole, small = (ResizedCifar(root, True, "cifar-10", size) for size in ((32, 32), (16, 16)))
    boxes = F.avg_pool2d(whole.arrays().float(), 2)
    assert torch.equal(small.arrays(), (boxes + 0.5).floor().to(torch.uint8))
    assert torch.equal(small.load_image(3), small.arrays()[3])
    data = data_of("data=cifar10", f"data.root={root}", "data.image_size=[16,16]", "data.batch_size=8")
    assert epoch(data)[0][0].shape == (8, 3, 16, 16)


def test_cifar_in_either_published_form(tmp_path: Path) -> None:
    inner = write_cifar(tmp_path) / "cifar-10-batches-bin"
    for root in (tmp_path, inner):
        assert len(ResizedCifar(root, False, "cifar-10", (32, 32))) == 8
    renamed = inner.rename(tmp_path / "renamed")
    assert len(ResizedCifar(renamed, False, "cifar-10", (32, 32))) == 8
    with pytest.raises(InputError, match="looked for cifar-10-batches-py"):
        ResizedCifar(tmp_path / "nowhere", False, "cifar-10", (32, 32))


def test_classes_of_a_list(folders: Path, tmp_path: Path) -> None:
    """Labels are those of a folder with only these classes, however the list is ordered."""
    file = tmp_path / "list.txt"
    file.write_text("# my classes\ndog  a beast\n\nbee\n")
    assert read_class_names(file) == ["dog", "bee"]
    train_set, val_set = build_datasets(data_of(*IMAGENET, f"data.root={folders}", f"data.classes_file={file}"))
    assert train_set.classes == val_set.classes == ("bee", "dog")
    assert (len(train_set), len(val_set)) == (8, 4)
    whole = ImageFolder(folders, "train")
    for index, label in enumerate(train_set.labels):
        assert whole.name(train_set.sources[index]).split("/")[-2] == train_set.classes[label]
        assert whole.name(train_set.sources[index]) == train_set.name(index)
    few = data_of(*IMAGENET, f"data.root={folders}", f"data.classes_file={file}", "data.train_per_class=3")
    assert np.bincount(build_dataset(few, train=True).labels).tolist() == [3, 3]


def test_all_classes_change_nothing(folders: Path) -> None:
    whole = ImageFolder(folders, "train")
    same = named_classes(whole, list(reversed(CLASSES)), "list")
    assert same.classes == whole.classes
    assert np.array_equal(same.labels, whole.labels)
    assert np.array_equal(same.sources, whole.sources)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant\nemu\nelk\n", "2 of its 3 classes are not in the data: emu, elk. correct the list, or data.root"),
        ("ant\nant\n", "class ant stands twice"),
        ("# nothing\n", "names no class"),
    ],
)
def test_mistakes_in_a_list(folders: Path, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(text)
    data = data_of(*IMAGENET, f"data.root={folders}", f"data.classes_file={file}")
    with pytest.raises(InputError, match=f"{file}: {message}"):
        build_datasets(data)


def test_no_list(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.txt: cannot be read \(No such file"):
        build_datasets(data_of(*IMAGENET, f"data.root={folders}", f"data.classes_file={tmp_path}/none.txt"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary: cannot be read"):
        read_class_names(tmp_path / "binary")


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_large_images_are_cropped_and_change_colours(folders: Path) -> None:
    """The same for any number of workers; colours change in training only."""
    data = data_of(*IMAGENET, f"data.root={folders}")
    assert list(data.color_jitter) == [0.4, 0.4, 0.4, 0.2]
    first = epoch(data)
    assert first[0][0].shape == (4, 3, 32, 32)
    plain = data_of(*IMAGENET, f"data.root={folders}", "data.color_jitter=null")
    assert all(not torch.equal(a, b) for (a, _), (b, _) in zip(first, epoch(plain)))
    workers = data_of(*IMAGENET, f"data.root={folders}", "data.workers=2")
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, epoch(workers)))
    shown = []
    for config in (data, plain):
        loader: Any = build_loader(build_dataset(config, train=False), config, train=False)
        shown.append(torch.cat([images for images, _ in loader.batches(0)]))
    assert torch.equal(*shown)


def test_fewer_images_than_processes() -> None:
    data = data_of("data.val_images=2")
    with pytest.raises(InputError, match="2 images for 3 processes"):
        build_loader(build_dataset(data, train=False), data, train=False, world_size=3)
