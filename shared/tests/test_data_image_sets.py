"""Data configurations of runs on single images, and what their loaders deliver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from vireo.data import (
    ClassificationDataset,
    Normalize,
    RandomErasing,
    batch_key,
    build_dataset,
    counter_key,
    evaluation_view,
    labelled_loader,
    pretraining_loader,
    require_batch,
    require_same_classes,
)
from vireo.data.image_sets import NORMALIZATIONS, normalization
from vireo.data.recipes import RandAugment, finetune_transforms
from vireo.errors import InputError
from vireo.testing.runs import write_folders

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

CROPS = OmegaConf.create({"scale": [0.5, 1.0], "flip": 0.5, "interpolation": "bilinear"})
TRAINING = OmegaConf.create({"scale": [0.5, 1.0], "flip": 0.5, "rand_augment": "rand-m9-n2", "erasing": 0.0})


def generated(**changes: Any) -> DictConfig:
    options: dict[str, Any] = {"format": "generated", "train_images": 20, "val_images": 10, "num_classes": 4}
    options |= {"image_size": [16, 16], "seed": 0, "noise": 8.0, "class_colours": True, "resident": True}
    options |= {"batch_size": 8, "eval_batch_size": 8, "train_per_class": None, "workers": 0, "on_error": "raise"}
    return OmegaConf.create({**options, **changes})


def folders(root: Path | str | None, **changes: Any) -> DictConfig:
    options: dict[str, Any] = {"format": "folder", "root": None if root is None else str(root), "train_split": "train"}
    options |= {"val_split": "val", "image_size": [16, 16], "check_images": "none", "resident": False}
    options |= {"batch_size": 4, "eval_batch_size": 4, "train_per_class": None, "workers": 0, "on_error": "raise"}
    return OmegaConf.create({**options, **changes})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("images"), {"train": 4, "val": 2}, size=48)


def first(loader: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return next(iter(loader))


def arrays(dataset: ClassificationDataset) -> torch.Tensor:
    return dataset.arrays()


def test_generated_sets_differ_between_training_and_evaluation() -> None:
    train, val = (build_dataset(generated(), train=part) for part in (True, False))
    assert (len(train), len(val)) == (20, 10)
    assert train.classes == val.classes
    assert not torch.equal(arrays(train)[:10], arrays(val))
    assert len(build_dataset(generated(train_per_class=2), train=True)) == 8
    assert len(build_dataset(generated(train_per_class=2), train=True, labels=False)) == 20


def test_folders_with_and_without_labels(root: Path) -> None:
    labelled = build_dataset(folders(root), train=True)
    assert len(labelled.classes) == 3
    assert len(build_dataset(folders(root, train_split=""), train=True, labels=False)) == 18  # both splits
    assert len(build_dataset(folders(root, check_images="full"), train=False)) == 6


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("normalize", ["imagenet", "half"])
def test_batches_are_normalised_as_configured(root: Path, normalize: str, resident: bool) -> None:
    """Evaluation with ``crop_pct`` 1 of images of the right size shows them as they are."""
    data = folders(root, resident=resident, normalize=normalize, crop_pct=1.0, image_size=[48, 48])
    dataset = build_dataset(data, train=False)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in NORMALIZATIONS[normalize])
    images, targets = first(labelled_loader(dataset, data, 48))
    expected = (arrays(build_dataset(folders(root, resident=True, image_size=[48, 48]), train=False))[:4] - mean) / std
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    assert targets.keys() == {"label", "index", "key"}


def test_the_middle_of_an_image_is_evaluated(root: Path) -> None:
    image = arrays(build_dataset(folders(root, resident=True, image_size=[48, 48]), train=False))[0]
    whole, _ = finetune_transforms(False, 48, crop_pct=1.0)(image, {})
    assert torch.equal(whole, image)
    middle, _ = finetune_transforms(False, 48)(image, {})
    assert middle.shape == (3, 48, 48)
    assert not torch.equal(middle, image)
    with pytest.raises(InputError, match=r"crop_pct 0 is not in \(0, 1\]"):
        finetune_transforms(False, 48, crop_pct=0)


def test_what_a_translation_brings_in_has_the_mean_colour() -> None:
    assert RandAugment("rand-m9-n1", 32).augment.ops[0].hparams["img_mean"] == (124, 116, 104)
    mean = normalization(generated(normalize="half")).mean.flatten().tolist()
    assert RandAugment("rand-m9-n1", 32, mean).augment.ops[0].hparams["img_mean"] == (128, 128, 128)


@pytest.mark.parametrize("resident", [True, False])
def test_loaders_of_training_leave_out_a_last_batch_that_is_not_full(root: Path, resident: bool) -> None:
    data = folders(root, resident=resident, batch_size=5)
    dataset = build_dataset(data, train=True)
    for loader in (pretraining_loader(dataset, data, CROPS, 16), labelled_loader(dataset, data, 16, TRAINING)):
        batches = list(loader)
        assert [tuple(images.shape) for images, _ in batches] == [(5, 3, 16, 16)] * 2
        assert all(images.dtype == torch.float32 for images, _ in batches)
    assert sum(len(images) for images, _ in pretraining_loader(dataset, data, CROPS, 16, train=False)) == 12


@pytest.mark.parametrize("resident", [True, False])
def test_a_single_image_is_seen_as_in_evaluation(root: Path, resident: bool) -> None:
    data = folders(root, resident=resident, image_size=[24, 24], normalize="half")
    images, _ = first(labelled_loader(build_dataset(data, train=False), data, 40))
    raw = build_dataset(folders(root), train=False)
    for index in range(2):
        view = evaluation_view(raw.load_image(index), data, 40)
        torch.testing.assert_close(view, images[index : index + 1], atol=1e-5, rtol=0)


def test_erasing_comes_behind_normalisation() -> None:
    data = generated()
    dataset = build_dataset(data, train=True)
    plain, targets = first(labelled_loader(dataset, data, 16, TRAINING))
    erased, _ = first(labelled_loader(dataset, data, 16, OmegaConf.merge(TRAINING, {"erasing": 1.0})))
    torch.testing.assert_close(erased, RandomErasing(1.0)(plain, targets)[0])
    assert not torch.equal(erased, plain)


def test_the_key_of_a_batch_is_none_of_a_sample() -> None:
    assert batch_key(3, 2, 0) == counter_key(3, 2, -1)
    assert batch_key(3, 2, 1) not in {batch_key(3, 2, 0), batch_key(3, 1, 1), batch_key(2, 2, 1)}
    samples = {counter_key(3, 2, index) for index in range(1000)}
    assert not samples & {batch_key(3, 2, batch) for batch in range(1000)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (generated(format="video"), "data.format: unknown format 'video'"),
        (folders(None), "data.root: has no value"),
        (folders("/nowhere"), "/nowhere"),
    ],
)
def test_data_that_cannot_be_had(data: DictConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_dataset(data, train=True)


def test_settings_that_cannot_be() -> None:
    data = generated()
    dataset = build_dataset(data, train=True)
    with pytest.raises(InputError, match=r"20 images do not fill a batch of 21.*use at most 20"):
        labelled_loader(dataset, generated(batch_size=21), 16, TRAINING)
    require_batch(20, 21, False, "data.batch_size")  # evaluation takes what there is
    bicubic = OmegaConf.merge(CROPS, {"interpolation": "bicubic"})
    with pytest.raises(InputError, match="resized bilinearly, not bicubic"):
        pretraining_loader(dataset, data, bicubic, 16)
    with pytest.raises(InputError, match=r"unknown mean and deviation 'clip'. use one of imagenet, half"):
        labelled_loader(dataset, generated(normalize="clip"), 16)
    assert isinstance(normalization(data), Normalize)
    other = build_dataset(generated(num_classes=3), train=False)
    with pytest.raises(InputError, match=r"different classes \(1 in one only: "):
        require_same_classes(dataset, other, "data")
