"""Data sets and loaders of a configuration: batches for training and evaluation, the same for any workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dqnet_trees as trees
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from dqnet.data import build_dataset, build_loader
from vireo.errors import InputError

CONFIGURATIONS = ("generated", "folders", "sod", "cod")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    for part, count in (("train", 7), ("val", 3)):
        trees.write_pairs(folder / part / "images", folder / part / "masks", [str(number) for number in range(count)])
    wide = trees.square_mask(size=(10, 30))  # images need not be of one size
    trees.write_image(folder / "train" / "images" / "0.jpg", wide)
    trees.write_image(folder / "train" / "masks" / "0.png", wide)
    return folder


def epoch(data: Any, *, train: bool, number: int = 0, **here: Any) -> list[tuple[Tensor, Any]]:
    loader = build_loader(build_dataset(data, train=train), data, 32, train=train, **{**trees.HERE, **here})
    return list(loader.batches(number))


def test_training_batches(root: Path) -> None:
    data = trees.data_config("folders", root=str(root), batch_size=3)
    batches = epoch(data, train=True)
    assert len(batches) == 2  # the seventh image fills no batch
    images, targets = batches[0]
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == targets["mask"].dtype == torch.float32
    assert targets["mask"].shape == (3, 1, 32, 32)
    assert 0 <= float(targets["mask"].min()) < float(targets["mask"].max()) <= 1
    assert targets["index"].shape == targets["key"].shape == (3,)
    again = epoch(data, train=True, number=1)
    assert [t["index"].tolist() for _, t in again] != [t["index"].tolist() for _, t in batches]


def test_evaluation_batches_keep_the_stored_masks(root: Path) -> None:
    data = trees.data_config("folders", root=str(root), eval_batch_size=2)
    dataset = build_dataset(data, train=False)
    batches = epoch(data, train=False)
    assert [len(images) for images, _ in batches] == [2, 1]
    targets = [target for _, part in batches for target in part]
    assert [int(target["index"]) for target in targets] == [0, 1, 2]
    for target in targets:
        assert torch.equal(target["mask"], dataset[int(target["index"])][1]["mask"])
    image = dataset[0][0].float()[None] / 255
    resized = torch.nn.functional.interpolate(image, (32, 32), mode="bilinear")[0]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(batches[0][0][0], (resized - mean) / std, atol=1e-5)


def test_batches_do_not_depend_on_workers(root: Path) -> None:
    alone, helped = (
        epoch(trees.data_config("folders", root=str(root), batch_size=3, workers=workers), train=True, number=2)
        for workers in (0, 2)
    )
    for (images, targets), (others, theirs) in zip(alone, helped, strict=True):
        assert torch.equal(images, others)
        assert all(torch.equal(targets[name], theirs[name]) for name in targets)


def test_processes_share_a_batch() -> None:
    data = trees.data_config("generated", train_images=8, batch_size=4)
    whole = epoch(data, train=True)
    parts = [epoch(data, train=True, rank=rank, world_size=2) for rank in (0, 1)]
    for step, (images, targets) in enumerate(whole):
        shared = {int(i): x for part in parts for x, i in zip(part[step][0], part[step][1]["index"])}
        for image, index in zip(images, targets["index"].tolist()):
            assert torch.equal(shared[index], image)


def test_broken_files_are_left_out_where_asked(tmp_path: Path) -> None:
    for part in ("train", "val"):
        trees.write_pairs(tmp_path / part / "images", tmp_path / part / "masks", ["a", "b", "c"])
        (tmp_path / part / "masks" / "b.png").write_bytes(b"nothing")
    refused = trees.data_config("folders", root=str(tmp_path))
    with pytest.raises(InputError, match=r"b\.png"):
        build_dataset(refused, train=True)
    data = trees.data_config("folders", root=str(tmp_path), on_error="skip")
    dataset = build_dataset(data, train=False)
    assert len(dataset) == 2
    assert "b.png" in dataset.skipped[0]
    data.check_images = "none"  # found when they are read: another takes its place, or it is left out
    data.batch_size = data.eval_batch_size = 3
    ((images, _),) = epoch(data, train=True)
    assert len(images) == 3
    ((images, _),) = epoch(data, train=False)
    assert len(images) == 2


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"format": "coco"}, "data.format"),
        ({"root": None}, "data.root"),
        ({"check_images": "some"}, "data.check_images"),
        ({"on_error": "never"}, "data.on_error"),
        ({"batch_size": 100}, "data.batch_size"),
        ({"flip": 2.0}, "data.flip"),
        ({"train.images": "none"}, "no such folder"),
        ({"train.names": "none.txt"}, "list cannot be read"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], key: str, root: Path) -> None:
    data = trees.data_config("folders", root=str(root), batch_size=3)
    for name, value in changes.items():
        OmegaConf.update(data, name, value)
    with pytest.raises(InputError, match=key):
        epoch(data, train=True)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_have_what_is_read(name: str, root: Path) -> None:
    data = trees.data_config(name, **({"train_images": 8, "val_images": 3} if name == "generated" else {}))
    if data.format != "camouflage":
        assert data.root is None
        assert data.check_images == "headers"
        data = trees.data_config("folders", **{**data, "format": "folders", "root": str(root), "workers": 0})
        data.val.images, data.val.masks = "val/images", "val/masks"
    data.batch_size, data.eval_batch_size = 4, 2
    assert epoch(data, train=True)[0][0].shape == (4, 3, 32, 32)
    assert len(epoch(data, train=False)[0][1]) == 2
