"""The fine-tuning recipe of a worker: its parts are those of timm and torchvision."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import v2

from vireo.data import (
    Compose,
    GeneratedClasses,
    Loader,
    RandomResizedCrop,
    finetune_transforms,
    imagenet_transforms,
    stack_classification,
)
from vireo.data.recipes import RandAugment
from vireo.errors import InputError

POLICY = "rand-m9-mstd0.5-inc1"


def image(height: int = 60, width: int = 90) -> Tensor:
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 # timm draws from it
    random.seed(seed)


def test_rand_augment_is_that_of_timms_training() -> None:
    steps = create_transform(48, is_training=True, auto_augment=POLICY, interpolation="bicubic").transforms
    theirs, ours = steps[2], RandAugment(POLICY, 48)
    given = image(48, 48)
    changed = 0
    for seed in range(100, 160):  # enough for each of the 15 operations
        seed_all(seed)
        expected = np.array(theirs(Image.fromarray(given.permute(1, 2, 0).numpy())))
        seed_all(seed)
        augmented, _ = ours(given, {})
        assert torch.equal(augmented, torch.from_numpy(expected).permute(2, 0, 1))
        changed += not torch.equal(augmented, given)
    assert 20 < changed < 60


def test_posterizing_to_no_bit_is_black() -> None:
    """At the greatest magnitude; timm's own call fails there with the newest Pillow."""
    augment = RandAugment("rand-m10-n1-p1-inc1", 16)
    seed_all(0)
    black = [int(augment(image(16, 16), {})[0].max()) == 0 for _ in range(150)]
    assert 1 <= sum(black) <= 25  # one operation of 15


@pytest.mark.parametrize("rand_augment", [POLICY, None])
def test_training(rand_augment: str | None) -> None:
    given = image()
    before = given.clone()
    seed_all(3)
    expected, _ = RandomResizedCrop(48, scale=(0.08, 1.0), interpolation="bicubic", flip=0.5)(given, {})
    if rand_augment:
        expected, _ = RandAugment(rand_augment, 48)(expected, {})
    seed_all(3)
    augmented, target = finetune_transforms(True, 48, rand_augment)(given, {"label": 2})
    assert torch.equal(augmented, expected)
    assert target == {"label": 2}
    assert torch.equal(given, before)


def test_evaluation() -> None:
    resized = v2.functional.resize(image(), [55], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    assert resized.shape == (3, 55, 82)
    evaluated, _ = finetune_transforms(False, 48)(image(), {})
    assert torch.equal(evaluated, v2.functional.center_crop(resized, [48, 48]))
    assert not torch.equal(evaluated, imagenet_transforms(False, 48)(image(), {})[0])  # that one is bilinear


def test_small_images_are_shifted_not_resized() -> None:
    given = image(32, 32).clamp(min=1)
    framed = torch.nn.functional.pad(given, [4] * 4)
    windows = [framed[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
    augment = finetune_transforms(True, 32, None)
    seed_all(0)
    seen = set()
    for _ in range(40):
        shifted, _ = augment(given, {})
        seen |= {
            (place, flip)
            for place, window in enumerate(windows)
            for flip in (False, True)
            if torch.equal(shifted, window.flip(-1) if flip else window)
        }
    assert len(seen) > 20
    assert {flip for _, flip in seen} == {False, True}
    assert torch.equal(finetune_transforms(False, 32)(given, {})[0], given)
    assert finetune_transforms(True, 32)(image(40, 50), {})[0].shape == (3, 32, 32)


@pytest.mark.parametrize("size", [24, 40])
def test_the_loader_repeats_its_draws(size: int) -> None:
    def passes(workers: int) -> Tensor:
        loader = Loader(
            GeneratedClasses(20),
            batch_size=5,
            shuffle=False,
            transform=finetune_transforms(True, size),
            device_transform=Compose(stack_classification),
            workers=workers,
        )
        return torch.cat([images for epoch in (0, 1) for images, _ in loader.batches(epoch)])

    images = passes(0)
    assert images.shape == (40, 3, size, size)
    assert images.dtype == torch.uint8
    assert not torch.equal(images[:20], images[20:])
    assert torch.equal(images, passes(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "finetune_transforms: size 0 is not positive"),
        ({"rand_augment": "augmix-m3"}, "RandAugment: 'augmix-m3' is no policy"),
        ({"rand_augment": "rand-q9"}, "RandAugment: 'rand-q9' is no policy"),
        ({"rand_augment": "rand-mstdx5.5.5"}, "RandAugment: 'rand-mstdx5.5.5' is no policy"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        finetune_transforms(True, **arguments)
